# SPDX-License-Identifier: MIT
# Included by tests/models/CMakeLists.txt. Attention's CUDA kernels on the emulator, and on a GPU or skipped.
set(attention "${CMAKE_CURRENT_LIST_DIR}/attention_cuda")
if(SHERD_SIMT)
  set(models "${PROJECT_SOURCE_DIR}/models/attention_cuda")
  sherd_simt_library(NAME sherd_attention_simt SOURCES "${models}.c" "${models}_forward.cu" "${models}_backward.cu"
    "${models}_plain.cu" "${attention}_case.c" "${attention}_simt.c")
  target_link_libraries(sherd_attention_simt PRIVATE sherd_dep_cmocka PUBLIC sherd_models)
  sherd_test(NAME models_attention_cuda SOURCES "${attention}.c" LIBS sherd_attention_simt)
  sherd_test(NAME models_attention_cuda_faults SOURCES "${attention}_faults.c" LIBS sherd_attention_simt)
  if(TARGET test_models_attention_cuda_faults)
    target_include_directories(test_models_attention_cuda_faults BEFORE PRIVATE "${SHERD_SIMT_FOLDER}/include")
  endif()
endif()
if(SHERD_HAVE_CUDA)
  sherd_test(NAME models_attention_cuda_present SOURCES "${attention}.c" "${attention}_case.c" "${attention}_gpu.c"
    LIBS sherd_models)
  set_source_files_properties("${attention}_gpu.c" PROPERTIES COMPILE_OPTIONS "-isystem;${SHERD_CUDA_INCLUDE}")
  sherd_script_test(NAME models_attention_cuda_registers LABELS full COMMAND bash "${attention}_registers.sh"
    "${SHERD_NVCC}" "${PROJECT_SOURCE_DIR}" "${SHERD_CUDA_INCLUDE}")
endif()
