# SPDX-License-Identifier: MIT
# cpack -G DEB: libsherd0 (the shared library), libsherd-dev (headers, archive, CMake package, pkg-config) and sherd (the
# command). What they depend on is computed by dpkg-shlibdeps. cpack -G TGZ: one archive of the installed tree.
set(CPACK_PACKAGE_NAME sherd)
# Empty, or it would stand above each package's own.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_PACKAGE_VENDOR "The Sherd authors")
set(SHERD_PACKAGER "The Sherd authors <sherd@packages.invalid>" CACHE STRING "Who answers for packages that cpack makes: NAME <MAIL>")
set(CPACK_PACKAGE_CONTACT "${SHERD_PACKAGER}")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_PACKAGE_CHECKSUM SHA256)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_COMPONENTS_ALL library development command)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libsherd0)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA "${PROJECT_BINARY_DIR}/package/triggers")
file(WRITE "${PROJECT_BINARY_DIR}/package/triggers" "activate-noawait ldconfig\n")
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "sharded optimizer engine: shared library
Splits optimizer state and gradients across ranks, sums gradients behind
the backward pass and gathers parameters behind the next forward. Here is
what programs that use the library need to run.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libsherd-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "sharded optimizer engine: files for building programs
Headers, the static library, a CMake package and a pkg-config file of
libsherd, a ZeRO-style sharded optimizer engine.")
set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME sherd)
set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION science)
set(CPACK_COMPONENT_COMMAND_DESCRIPTION "sharded optimizer engine: the command
Trains a decoder on text with optimizer state and gradients split across
ranks, measures steps, and says what a model needs in bytes before
anything is allocated.")

# Programs are built against exactly this library; its own needs come with it for a static link.
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "libsherd0 (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}), libjansson-dev, libxxhash-dev")
foreach(pair "hwloc:libhwloc-dev" "numa:libnuma-dev" "uring:liburing-dev")
  string(REPLACE ":" ";" parts "${pair}")
  list(GET parts 0 name)
  list(GET parts 1 package)
  if("${name}" IN_LIST sherd_private_names)
    string(APPEND CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS ", ${package}")
  endif()
endforeach()

if(SHERD_HAVE_MPI)
  foreach(kind openmpi mpich)
    if("${MPI_C_LIBRARIES}" MATCHES "${kind}")
      string(APPEND CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS ", lib${kind}-dev")
    endif()
  endforeach()
endif()

# Debian wants a copyright file and a changelog in every package, and compressed pages. SOURCE_DATE_EPOCH fixes the date.
string(TIMESTAMP sherd_date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE "${PROJECT_BINARY_DIR}/package/changelog.Debian" "sherd (${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}) unstable; "
  "urgency=medium\n\n  * What changed is in CHANGELOG.md of the sources.\n\n -- ${SHERD_PACKAGER}  ${sherd_date}\n")
foreach(pair "library:libsherd0" "development:libsherd-dev" "command:sherd")
  string(REPLACE ":" ";" parts "${pair}")
  list(GET parts 0 component)
  list(GET parts 1 package)
  set(folder "${CMAKE_INSTALL_DATADIR}/doc/${package}")
  install(FILES LICENSE RENAME copyright DESTINATION ${folder} COMPONENT ${component} EXCLUDE_FROM_ALL)
  install(FILES "${PROJECT_BINARY_DIR}/package/changelog.Debian" DESTINATION ${folder} COMPONENT ${component} EXCLUDE_FROM_ALL)
endforeach()
install(FILES LICENSE CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/sherd COMPONENT plain)
set(CPACK_PRE_BUILD_SCRIPTS "${PROJECT_SOURCE_DIR}/cmake/PackageCompress.cmake")
include(CPack)
