# SPDX-License-Identifier: MIT
# Run by cpack when the files of all packages are staged: Debian's policy wants manual pages and changelogs compressed.
if(CPACK_GENERATOR STREQUAL "DEB")
  find_program(gzip gzip REQUIRED)
  file(GLOB_RECURSE pages "${CPACK_TEMPORARY_DIRECTORY}/sherd.1" "${CPACK_TEMPORARY_DIRECTORY}/changelog.Debian")
  foreach(page ${pages})
    execute_process(COMMAND "${gzip}" -9nf "${page}" COMMAND_ERROR_IS_FATAL ANY)
  endforeach()
endif()
