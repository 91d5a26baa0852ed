# SPDX-License-Identifier: MIT
# Included by tests/comm/CMakeLists.txt. comm/nccl on stubs of CUDA's runtime and of NCCL: its own
# sources, compiled against the CUDA stub's header, beside the library; the NCCL stub is opened as NCCL would be.
if(TARGET sherd_cuda_stub)
  file(GLOB sherd_nccl_sources "${PROJECT_SOURCE_DIR}/comm/nccl*.c")
  add_library(sherd_nccl_stubbed STATIC ${sherd_nccl_sources})
  target_link_libraries(sherd_nccl_stubbed PRIVATE sherd_flags PUBLIC sherd_cuda_stub ${CMAKE_DL_LIBS})
  file(GLOB sherd_nccl_stub_sources "${PROJECT_SOURCE_DIR}/tests/support/nccl_stub/*.c")
  add_library(sherd_nccl_stub MODULE ${sherd_nccl_stub_sources})
  target_include_directories(sherd_nccl_stub PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(sherd_nccl_stub PRIVATE sherd_flags Threads::Threads)

  function(sherd_nccl_test)
    cmake_parse_arguments(T "" "NAME;TIMEOUT" "SOURCES;LIBS" ${ARGN})
    sherd_test(NAME ${T_NAME} SOURCES ${T_SOURCES} ${CMAKE_CURRENT_LIST_DIR}/nccl_world.c LIBS sherd_nccl_stubbed sherd_cuda_stub ${T_LIBS}
      TIMEOUT ${T_TIMEOUT} ENV "SHERD_NCCL_LIBRARY=$<TARGET_FILE:sherd_nccl_stub>")
    if(TARGET test_${T_NAME})
      add_dependencies(test_${T_NAME} sherd_nccl_stub)
    endif()
  endfunction()
  sherd_nccl_test(NAME comm_nccl_collectives TIMEOUT 60 SOURCES ${CMAKE_CURRENT_LIST_DIR}/nccl_collectives.c
    ${CMAKE_CURRENT_LIST_DIR}/bodies.c ${CMAKE_CURRENT_LIST_DIR}/world.c)
  sherd_nccl_test(NAME comm_nccl_engine TIMEOUT 120 SOURCES ${CMAKE_CURRENT_LIST_DIR}/nccl_engine.c LIBS sherd_test_engine)
  sherd_nccl_test(NAME comm_nccl_failure TIMEOUT 120 SOURCES ${CMAKE_CURRENT_LIST_DIR}/nccl_failure.c LIBS sherd_test_engine)
endif()

# What is declared of NCCL's interface, against its header, where CUDA and that are found.
if(SHERD_HAVE_CUDA)
  find_path(SHERD_NCCL_INCLUDE nccl.h HINTS "${SHERD_CUDA_INCLUDE}")
  mark_as_advanced(SHERD_NCCL_INCLUDE)
  if(SHERD_NCCL_INCLUDE)
    sherd_test(NAME comm_nccl_abi SOURCES ${CMAKE_CURRENT_LIST_DIR}/nccl_abi.c LIBS ${CMAKE_DL_LIBS})
    if(TARGET test_comm_nccl_abi)
      target_include_directories(test_comm_nccl_abi SYSTEM PRIVATE "${SHERD_NCCL_INCLUDE}" "${SHERD_CUDA_INCLUDE}")
    endif()
  endif()
endif()
