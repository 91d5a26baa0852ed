# SPDX-License-Identifier: MIT
# Included by tests/models/CMakeLists.txt.
if(SHERD_SIMT)
  sherd_simt_library(NAME sherd_attention_simt SOURCES
    "${PROJECT_SOURCE_DIR}/models/attention_cuda.c" "${PROJECT_SOURCE_DIR}/models/attention_cuda_forward.cu"
    "${PROJECT_SOURCE_DIR}/models/attention_cuda_backward.cu" "${PROJECT_SOURCE_DIR}/models/attention_cuda_plain.cu")
  target_link_libraries(sherd_attention_simt PUBLIC sherd_models)
  sherd_test(NAME models_attention_cuda SOURCES "${CMAKE_CURRENT_LIST_DIR}/attention_cuda.c" LIBS sherd_attention_simt)
endif()
if(SHERD_HAVE_CUDA)
  sherd_script_test(NAME models_attention_cuda_registers LABELS full COMMAND bash
    "${CMAKE_CURRENT_LIST_DIR}/attention_cuda_registers.sh" "${SHERD_NVCC}" "${PROJECT_SOURCE_DIR}" "${SHERD_CUDA_INCLUDE}")
endif()
