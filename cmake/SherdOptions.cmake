# SPDX-License-Identifier: MIT
# Language, warnings, sanitizers: everything that is said to the compiler for every target of this project.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

if(NOT SHERD_KEEP_RELEASE_FLAGS)
  set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g -DNDEBUG")
endif()

option(SHERD_TESTS "Build the tests (needs cmocka)" ON)
option(SHERD_WERROR "Warnings are errors" OFF)
set(SHERD_SANITIZE "" CACHE STRING "address;undefined or thread")

# Flags of our own code. -ffp-contract=off: fma only where written; no flag may change a result.
add_library(sherd_flags INTERFACE)
target_compile_definitions(sherd_flags INTERFACE _GNU_SOURCE)
target_compile_options(sherd_flags INTERFACE -Wall -Wextra -pedantic -ffp-contract=off -fno-math-errno -fno-trapping-math)
if(SHERD_WERROR)
  target_compile_options(sherd_flags INTERFACE -Werror)
endif()
if(SHERD_SANITIZE)
  string(REPLACE ";" "," sherd_sanitizers "${SHERD_SANITIZE}")
  add_compile_options(-fsanitize=${sherd_sanitizers} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${sherd_sanitizers})
  # gcc says of both that instrumented code makes it guess; the other builds have them on.
  if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(sherd_flags INTERFACE -Wno-format-truncation -Wno-maybe-uninitialized)
  endif()
endif()
