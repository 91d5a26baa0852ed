# SPDX-License-Identifier: MIT
# Included by tests/device/CMakeLists.txt. The CUDA device on the stub of CUDA's runtime: device/cuda's own sources, compiled
# against the stub's header, beside the library.
if(SHERD_CUDA_STUB)
  file(GLOB sherd_cuda_stub_sources "${PROJECT_SOURCE_DIR}/device/cuda*.c" "${PROJECT_SOURCE_DIR}/tests/support/cuda_stub/*.c")
  add_library(sherd_cuda_stub STATIC ${sherd_cuda_stub_sources} "${PROJECT_SOURCE_DIR}/device/registry.c")
  target_compile_definitions(sherd_cuda_stub PRIVATE SHERD_HAVE_CUDA)
  target_include_directories(sherd_cuda_stub BEFORE PUBLIC "${PROJECT_SOURCE_DIR}/tests/support/cuda_stub/include"
    "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/include")
  target_link_libraries(sherd_cuda_stub PRIVATE sherd_flags PUBLIC sherd_static)

  sherd_test(NAME device_cuda_kernels SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_kernels.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c
    LIBS sherd_cuda_stub)
  if(SHERD_SIMT)
    sherd_simt_library(NAME sherd_narrow_simt SOURCES "${CMAKE_CURRENT_LIST_DIR}/cuda_narrow.cu" DEFINE __CUDACC__)
    sherd_test(NAME device_cuda_narrow SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_narrow.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c
      LIBS sherd_narrow_simt)
  endif()
  sherd_test(NAME device_cuda_orthogonal SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_orthogonal.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c
    LIBS sherd_cuda_stub)
  if(SHERD_SIMT)
    sherd_simt_library(NAME sherd_orthogonal_simt SOURCES "${CMAKE_CURRENT_LIST_DIR}/cuda_orthogonal_simt.cu" DEFINE __CUDACC__)
    sherd_simt_library(NAME sherd_orthogonal_loose SOURCES "${CMAKE_CURRENT_LIST_DIR}/cuda_orthogonal_simt.cu"
      DEFINE __CUDACC__ SIMT_LOOSE)
    sherd_test(NAME device_cuda_orthogonal_simt SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_orthogonal_simt.c
      ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c LIBS sherd_orthogonal_simt sherd_orthogonal_loose)
  endif()
  sherd_test(NAME device_cuda_streams SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_streams.c LIBS sherd_cuda_stub TIMEOUT 60)
  sherd_test(NAME device_cuda_faults SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_faults.c LIBS sherd_cuda_stub sherd_test_engine TIMEOUT 120)
  sherd_test(NAME device_cuda_windows SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_windows.c "${PROJECT_SOURCE_DIR}/tests/comm/bodies.c"
    "${PROJECT_SOURCE_DIR}/tests/comm/world.c" LIBS sherd_cuda_stub TIMEOUT 120)
  sherd_test(NAME device_cuda_replicas SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_replicas.c LIBS sherd_cuda_stub sherd_test_engine
    TIMEOUT 120)
  # Minutes under the thread sanitizer, which sees the engine on this device in comm_nccl_engine.
  sherd_test(NAME device_cuda_engine SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_engine.c LIBS sherd_cuda_stub sherd_test_engine
    LABELS quick no-tsan TIMEOUT 300)
endif()

if(SHERD_HAVE_CUDA)
  # The engine's matrix again, on a GPU.
  sherd_test(NAME device_cuda_engine_gpu SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_engine.c ${CMAKE_CURRENT_LIST_DIR}/cuda_gpu.c
    LIBS sherd_test_engine LABELS quick gpu TIMEOUT 300)
  if(TARGET test_device_cuda_engine_gpu)
    target_include_directories(test_device_cuda_engine_gpu SYSTEM PRIVATE "${SHERD_CUDA_INCLUDE}")
    target_link_options(test_device_cuda_engine_gpu PRIVATE "LINKER:--wrap=cudaMalloc,--wrap=cudaFree")
  endif()
  sherd_test(NAME device_cuda_present SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_present.c LABELS quick gpu)
  sherd_script_test(NAME device_cuda_ptx COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/cuda_ptx.sh" "${SHERD_NVCC}" "${PROJECT_SOURCE_DIR}"
    "${SHERD_CUDA_INCLUDE}" ${SHERD_CUDA_FLAGS})
  sherd_script_test(NAME device_cuda_sass COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/cuda_sass.sh" "${SHERD_NVCC}" "${PROJECT_SOURCE_DIR}"
    "${SHERD_CUDA_INCLUDE}" ${SHERD_CUDA_FLAGS})
endif()
