# SPDX-License-Identifier: MIT
# Included by tests/device/CMakeLists.txt.
sherd_test(NAME device_host_math_sum SOURCES ${CMAKE_CURRENT_LIST_DIR}/host_math_sum.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c LABELS quick)
sherd_test(NAME device_host_math_update SOURCES ${CMAKE_CURRENT_LIST_DIR}/host_math_update.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c LABELS quick)
sherd_test(NAME device_host_math_orthogonal SOURCES ${CMAKE_CURRENT_LIST_DIR}/host_math_orthogonal.c ${CMAKE_CURRENT_LIST_DIR}/host_math_values.c LABELS quick)
