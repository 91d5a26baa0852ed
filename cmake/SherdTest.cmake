# SPDX-License-Identifier: MIT
# sherd_test(NAME base_status SOURCES status.c [LABELS quick] [LIBS …] [ARGS …] [TIMEOUT 120] [WORKDIR dir] [ENV A=1 …])
# builds one cmocka program against the static library (internal symbols included) and tests/support, and registers it with
# ctest. Exit code 77 is a skip. sherd_script_test(NAME … COMMAND …) registers a command that is not built here.
set(SHERD_TEST_ENV
  "OMPI_ALLOW_RUN_AS_ROOT=1" "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" "OMPI_MCA_rmaps_base_oversubscribe=1"
  "OMPI_MCA_hwloc_base_binding_policy=none" "OMPI_MCA_mpi_yield_when_idle=1" "OMPI_MCA_btl=self,vader,tcp"
  "OMPI_MCA_pml=ob1" "OMPI_MCA_btl_vader_single_copy_mechanism=none" "OMPI_MCA_btl_tcp_if_include=lo"
  "OMPI_MCA_oob_tcp_if_include=lo"
  # The same two for Open MPI 5.
  "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe" "PRTE_MCA_hwloc_default_binding_policy=none")
if(SHERD_SANITIZE MATCHES "address")
  list(APPEND SHERD_TEST_ENV "ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0"
    "LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/tests/support/lsan.supp:print_suppressions=0"
    "UBSAN_OPTIONS=print_stacktrace=1")
elseif(SHERD_SANITIZE MATCHES "thread")
  list(APPEND SHERD_TEST_ENV "TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/tests/support/tsan.supp:halt_on_error=1")
endif()

function(sherd_register_test name)
  cmake_parse_arguments(T "" "TIMEOUT;WORKDIR" "LABELS;ENV" ${ARGN})
  if(NOT T_LABELS)
    set(T_LABELS quick)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  if(SHERD_SANITIZE)
    math(EXPR T_TIMEOUT "${T_TIMEOUT} * 4")
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT} SKIP_RETURN_CODE 77
    ENVIRONMENT "${SHERD_TEST_ENV};${T_ENV}")
  if(T_WORKDIR)
    set_tests_properties(${name} PROPERTIES WORKING_DIRECTORY "${T_WORKDIR}")
  endif()
endfunction()

function(sherd_test)
  cmake_parse_arguments(T "" "NAME;TIMEOUT;WORKDIR" "SOURCES;LABELS;LIBS;ARGS;ENV" ${ARGN})
  if(NOT SHERD_TESTS OR NOT CMOCKA_FOUND)
    return()
  endif()
  add_executable(test_${T_NAME} ${T_SOURCES})
  if(SHERD_SANITIZE MATCHES "address")
    target_sources(test_${T_NAME} PRIVATE "${PROJECT_SOURCE_DIR}/tests/support/nodlclose.c")
  endif()
  target_include_directories(test_${T_NAME} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(test_${T_NAME} PRIVATE sherd_flags ${T_LIBS})
  if(TARGET sherd_test_support)
    target_link_libraries(test_${T_NAME} PRIVATE sherd_test_support)
  endif()
  target_link_libraries(test_${T_NAME} PRIVATE sherd_static sherd_dep_cmocka)
  add_test(NAME ${T_NAME} COMMAND test_${T_NAME} ${T_ARGS})
  sherd_register_test(${T_NAME} LABELS ${T_LABELS} TIMEOUT ${T_TIMEOUT} WORKDIR ${T_WORKDIR} ENV ${T_ENV})
endfunction()

function(sherd_script_test)
  cmake_parse_arguments(T "" "NAME;TIMEOUT;WORKDIR" "COMMAND;LABELS;ENV" ${ARGN})
  add_test(NAME ${T_NAME} COMMAND ${T_COMMAND})
  sherd_register_test(${T_NAME} LABELS ${T_LABELS} TIMEOUT ${T_TIMEOUT} WORKDIR ${T_WORKDIR} ENV ${T_ENV})
endfunction()
