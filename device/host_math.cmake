# SPDX-License-Identifier: MIT
# The host's kernels. Included by device/CMakeLists.txt.
target_sources(sherd_objects PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/host_math.c
  ${CMAKE_CURRENT_LIST_DIR}/host_math_reference.c)
