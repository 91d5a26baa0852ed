# SPDX-License-Identifier: MIT
# The CUDA device; cmake/SherdCuda.cmake finds CUDA.
if(SHERD_HAVE_CUDA)
  sherd_cuda_archive(NAME sherd_cuda_kernels SOURCES "${CMAKE_CURRENT_LIST_DIR}/cuda_kernels.cu" FLAGS ${SHERD_CUDA_FLAGS})
  set(sherd_cuda_sources cuda cuda_cache cuda_event cuda_info cuda_issue cuda_memory cuda_orthogonal cuda_post cuda_share cuda_stream cuda_sum cuda_wait)
  list(TRANSFORM sherd_cuda_sources PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
  list(TRANSFORM sherd_cuda_sources APPEND ".c")
  target_sources(sherd_objects PRIVATE ${sherd_cuda_sources})
  set_source_files_properties(${sherd_cuda_sources} TARGET_DIRECTORY sherd_objects PROPERTIES
    COMPILE_OPTIONS "-isystem;${SHERD_CUDA_INCLUDE}")
  set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/cuda_info.c" TARGET_DIRECTORY sherd_objects PROPERTIES
    COMPILE_DEFINITIONS "SHERD_CUDA_TARGETS=\"${SHERD_CUDA_TARGETS}\"")
  set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/registry.c" TARGET_DIRECTORY sherd_objects PROPERTIES
    COMPILE_DEFINITIONS SHERD_HAVE_CUDA)
  add_dependencies(sherd_objects sherd_cuda_kernels)
  # An archive of its own: object files that a rule of ours makes do not travel through an object library.
  target_link_libraries(sherd_deps INTERFACE "${sherd_cuda_kernels_ARCHIVE}" "${SHERD_CUDART}" ${CMAKE_DL_LIBS} rt stdc++)
  set_property(GLOBAL PROPERTY SHERD_INSTALL_ARCHIVES "${sherd_cuda_kernels_ARCHIVE}")
endif()
