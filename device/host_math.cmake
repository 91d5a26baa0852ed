# SPDX-License-Identifier: MIT
# The host's kernels: one source for several instruction sets. Included by device/CMakeLists.txt.
target_sources(sherd_objects PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/host_math.c
  ${CMAKE_CURRENT_LIST_DIR}/host_math_orthogonal_reference.c
  ${CMAKE_CURRENT_LIST_DIR}/host_math_reference.c
  ${CMAKE_CURRENT_LIST_DIR}/host_math_portable.c)
set(sherd_kernel_flags)
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(sherd_kernel_flags -O3)
endif()
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/host_math_portable.c TARGET_DIRECTORY sherd_objects
  PROPERTIES COMPILE_OPTIONS "${sherd_kernel_flags}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  target_sources(sherd_objects PRIVATE
    ${CMAKE_CURRENT_LIST_DIR}/host_math_avx2.c
    ${CMAKE_CURRENT_LIST_DIR}/host_math_avx512.c)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/host_math_avx2.c TARGET_DIRECTORY sherd_objects
    PROPERTIES COMPILE_OPTIONS "${sherd_kernel_flags};-mavx2;-mfma")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/host_math_avx512.c TARGET_DIRECTORY sherd_objects
    PROPERTIES COMPILE_OPTIONS "${sherd_kernel_flags};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mprefer-vector-width=512")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/host_math.c TARGET_DIRECTORY sherd_objects
    PROPERTIES COMPILE_DEFINITIONS SHERD_HAVE_X86_KERNELS=1)
endif()
