# SPDX-License-Identifier: MIT
# Included by tests/models/CMakeLists.txt. The decoder's CUDA ops on the stubs of CUDA's runtime and of cuBLASLt, their kernels on
# the emulator of tests/support/cuda_stub/simt.h.
if(SHERD_SIMT)
  set(sources ${SHERD_MODELS_CUDA_SOURCES} ${SHERD_MODELS_CUDA_KERNELS} "${PROJECT_SOURCE_DIR}/models/ops_choose.c"
    "${PROJECT_SOURCE_DIR}/tests/support/cublaslt_stub/cublaslt_stub.c")
  list(FILTER sources EXCLUDE REGEX "cuda_blas_open")
  sherd_simt_library(NAME sherd_models_cuda_stub SOURCES ${sources})
  target_link_libraries(sherd_models_cuda_stub PUBLIC sherd_models)
  # Its choice of ops stands in front of the library's own.
  target_link_options(sherd_models_cuda_stub INTERFACE "LINKER:-u,sherd__ops_create")

  sherd_test(NAME models_cuda_ops SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_ops.c LIBS sherd_models_cuda_stub sherd_cuda_stub)
  sherd_test(NAME models_cuda_model SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_model.c
    LIBS sherd_models_rig sherd_models_cuda_stub sherd_cuda_stub)
  sherd_test(NAME models_cuda_engine SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_engine.c LIBS sherd_models_cuda_stub sherd_cuda_stub)
endif()

if(SHERD_HAVE_CUDA AND EXISTS "${SHERD_CUDA_INCLUDE}/cublasLt.h")
  sherd_test(NAME models_cuda_blas_header SOURCES ${CMAKE_CURRENT_LIST_DIR}/cuda_blas_header.c
    "${PROJECT_SOURCE_DIR}/models/cuda_blas_open.c" LIBS sherd_models)
  if(TARGET test_models_cuda_blas_header)
    target_compile_options(test_models_cuda_blas_header PRIVATE -isystem "${SHERD_CUDA_INCLUDE}")
  endif()
endif()
