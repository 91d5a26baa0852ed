# SPDX-License-Identifier: MIT
# The CUDA device. SHERD_CUDA: ON (required), AUTO (where nvcc and the runtime are found), OFF. CUDA comes from a toolkit
# (nvcc in PATH, /usr/local/cuda, CUDAToolkit_ROOT) or from NVIDIA's Python wheels (nvidia/…). nvcc is called by a rule of
# our own, so that a machine without it configures nothing about CUDA, and needs no GPU.
set(SHERD_CUDA OFF CACHE STRING "Build the CUDA device: AUTO, ON or OFF")
set_property(CACHE SHERD_CUDA PROPERTY STRINGS AUTO ON OFF)
option(SHERD_CUDA_STUB "Build the tests of the CUDA device on a stub of CUDA's runtime (needs neither CUDA nor a GPU)" OFF)
set(SHERD_CUDA_ARCHITECTURES "80;86;89;90;100" CACHE STRING "Compute capabilities to compile kernels for; the last also as PTX")
set(SHERD_CUDA_FLAGS -O3 -std=c++17 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true)
set(SHERD_HAVE_CUDA OFF)

if(NOT SHERD_CUDA STREQUAL "OFF")
  file(GLOB sherd_cuda_wheels
    "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/*" "$ENV{HOME}/.local/lib/python3*/site-packages/nvidia/*"
    "/usr/local/lib/python3*/*-packages/nvidia/*" "/usr/lib/python3*/*-packages/nvidia/*" "/opt/conda/lib/python3*/site-packages/nvidia/*")
  set(sherd_cuda_roots ${CUDAToolkit_ROOT} $ENV{CUDA_PATH} /usr/local/cuda ${sherd_cuda_wheels})
  find_program(SHERD_NVCC nvcc HINTS ${sherd_cuda_roots} PATH_SUFFIXES bin)
  set(sherd_cuda_beside "")
  if(SHERD_NVCC)
    get_filename_component(sherd_cuda_beside "${SHERD_NVCC}" REALPATH)
    get_filename_component(sherd_cuda_beside "${sherd_cuda_beside}" DIRECTORY)
    get_filename_component(sherd_cuda_beside "${sherd_cuda_beside}" DIRECTORY)
  endif()
  find_path(SHERD_CUDA_INCLUDE cuda_runtime_api.h HINTS ${sherd_cuda_beside} ${sherd_cuda_roots}
    PATH_SUFFIXES include targets/x86_64-linux/include targets/sbsa-linux/include)
  # The static runtime first: one program with and without a driver.
  find_library(SHERD_CUDART NAMES cudart_static cudart libcudart.so.13 libcudart.so.12 HINTS ${sherd_cuda_beside} ${sherd_cuda_roots}
    PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
  mark_as_advanced(SHERD_NVCC SHERD_CUDA_INCLUDE SHERD_CUDART)
  if(SHERD_NVCC AND SHERD_CUDA_INCLUDE AND SHERD_CUDART)
    set(SHERD_HAVE_CUDA ON)
  elseif(SHERD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHERD_CUDA=ON, but not all was found: nvcc '${SHERD_NVCC}', cuda_runtime_api.h '${SHERD_CUDA_INCLUDE}', "
      "cudart '${SHERD_CUDART}'; set CUDAToolkit_ROOT")
  endif()
  message(STATUS "  CUDA: ${SHERD_HAVE_CUDA} (nvcc '${SHERD_NVCC}', runtime '${SHERD_CUDART}')")
endif()

if(SHERD_HAVE_CUDA)
  execute_process(COMMAND "${SHERD_NVCC}" --list-gpu-code OUTPUT_VARIABLE sherd_cuda_known)
  set(sherd_cuda_codes "")
  set(sherd_cuda_ptx "")
  foreach(arch ${SHERD_CUDA_ARCHITECTURES})
    if(sherd_cuda_known MATCHES "sm_${arch}\n")
      list(APPEND sherd_cuda_codes "-gencode" "arch=compute_${arch},code=sm_${arch}")
      set(sherd_cuda_ptx "-gencode" "arch=compute_${arch},code=compute_${arch}")
    else()
      message(STATUS "  CUDA: this nvcc does not know sm_${arch}, left out")
    endif()
  endforeach()
  file(GLOB sherd_cuda_depends "${PROJECT_SOURCE_DIR}/optim/*.h")
  set(sherd_cuda_object "${CMAKE_CURRENT_BINARY_DIR}/cuda_kernels${CMAKE_C_OUTPUT_EXTENSION}")
  set(sherd_cuda_archive "${CMAKE_CURRENT_BINARY_DIR}/libsherd_cuda_kernels.a")
  add_custom_command(OUTPUT "${sherd_cuda_archive}"
    COMMAND "${SHERD_NVCC}" ${SHERD_CUDA_FLAGS} ${sherd_cuda_codes} ${sherd_cuda_ptx} -Xcompiler=-fPIC,-fvisibility=hidden,-Wall
      -I "${PROJECT_SOURCE_DIR}" -I "${PROJECT_SOURCE_DIR}/include" -I "${SHERD_CUDA_INCLUDE}"
      -c "${CMAKE_CURRENT_LIST_DIR}/cuda_kernels.cu" -o "${sherd_cuda_object}"
    COMMAND "${CMAKE_COMMAND}" -E rm -f "${sherd_cuda_archive}"
    COMMAND "${CMAKE_AR}" rcs "${sherd_cuda_archive}" "${sherd_cuda_object}"
    DEPENDS "${CMAKE_CURRENT_LIST_DIR}/cuda_kernels.cu" "${CMAKE_CURRENT_LIST_DIR}/cuda_body.h" "${CMAKE_CURRENT_LIST_DIR}/cuda_launch.h"
      "${PROJECT_SOURCE_DIR}/base/half.h" "${PROJECT_SOURCE_DIR}/base/interval.h" ${sherd_cuda_depends}
    COMMENT "Compiling CUDA kernels" VERBATIM)
  add_custom_target(sherd_cuda_kernels DEPENDS "${sherd_cuda_archive}")
  set(sherd_cuda_sources cuda cuda_event cuda_info cuda_issue cuda_memory cuda_queue cuda_stream cuda_wait)
  list(TRANSFORM sherd_cuda_sources PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
  list(TRANSFORM sherd_cuda_sources APPEND ".c")
  target_sources(sherd_objects PRIVATE ${sherd_cuda_sources})
  set_source_files_properties(${sherd_cuda_sources} TARGET_DIRECTORY sherd_objects PROPERTIES
    COMPILE_OPTIONS "-isystem;${SHERD_CUDA_INCLUDE}")
  set_source_files_properties("${CMAKE_CURRENT_LIST_DIR}/registry.c" TARGET_DIRECTORY sherd_objects PROPERTIES
    COMPILE_DEFINITIONS SHERD_HAVE_CUDA)
  add_dependencies(sherd_objects sherd_cuda_kernels)
  # An archive of its own: object files that a rule of ours makes do not travel through an object library.
  target_link_libraries(sherd_deps INTERFACE "${sherd_cuda_archive}" "${SHERD_CUDART}" ${CMAKE_DL_LIBS} rt stdc++)
endif()
set(SHERD_HAVE_CUDA ${SHERD_HAVE_CUDA} CACHE INTERNAL "")
