# SPDX-License-Identifier: MIT
# cmake --install: libraries, public headers, the command with its man page, a CMake package and a pkg-config file. All of them
# find each other from where they lie, so that an installed tree can be moved. Components: library, development, command, plain (what a
# package has in its own way).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  message(FATAL_ERROR "CMAKE_INSTALL_LIBDIR and CMAKE_INSTALL_INCLUDEDIR: give them relative to the prefix")
endif()
set(sherd_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/sherd")

install(TARGETS sherd_shared EXPORT sherd-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT development
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS sherd_static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
set(sherd_headers include/sherd/sherd.h include/sherd/sherd_base.h include/sherd/sherd_nodes.h include/sherd/sherd_steer.h include/sherd/sherd_store.h)
if(SHERD_HAVE_MPI)
  list(APPEND sherd_headers include/sherd/sherd_mpi.h)
endif()
if(SHERD_HAVE_CUDA)
  list(APPEND sherd_headers include/sherd/sherd_cuda.h)
endif()
install(FILES ${sherd_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sherd COMPONENT development)

# What a static link needs besides libsherd.a: the interface of sherd_deps, as names (CMake package) and as flags (pkg-config).
set(sherd_private_names jansson xxhash)
get_target_property(sherd_linked sherd_deps INTERFACE_LINK_LIBRARIES)
foreach(name hwloc numa uring)
  if("sherd_dep_${name}" IN_LIST sherd_linked)
    list(APPEND sherd_private_names ${name})
  endif()
endforeach()
list(TRANSFORM sherd_private_names PREPEND "-l" OUTPUT_VARIABLE sherd_private_libs)
set(sherd_static_cudart "")
if(SHERD_HAVE_CUDA)
  get_property(sherd_archives GLOBAL PROPERTY SHERD_INSTALL_ARCHIVES)
  install(FILES ${sherd_archives} DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
  set(sherd_static_cudart "${SHERD_CUDART}")
  list(APPEND sherd_private_libs -lsherd_cuda_kernels "${SHERD_CUDART}" -ldl -lrt -lstdc++)
endif()
if(SHERD_HAVE_MPI)
  list(APPEND sherd_private_libs ${MPI_C_LIBRARIES})
endif()
list(APPEND sherd_private_libs -pthread -lm)
list(JOIN sherd_private_libs " " sherd_private_libs)

file(RELATIVE_PATH sherd_up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" sherd_up "${sherd_up}")
configure_file(cmake/sherd.pc.in sherd.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/sherd.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

install(EXPORT sherd-targets NAMESPACE sherd:: DESTINATION ${sherd_package_dir} COMPONENT development)
configure_package_config_file(cmake/sherdConfig.cmake.in package/sherdConfig.cmake INSTALL_DESTINATION ${sherd_package_dir})
# Before 1.0 a minor version may break the interface.
write_basic_package_version_file(package/sherdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/package/sherdConfig.cmake" "${PROJECT_BINARY_DIR}/package/sherdConfigVersion.cmake"
  DESTINATION ${sherd_package_dir} COMPONENT development)

if(TARGET sherd)
  install(TARGETS sherd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT command)
  # The options in the page are what the command's own --help says; a program for another machine cannot be asked.
  find_program(SHERD_BASH bash)
  mark_as_advanced(SHERD_BASH)
  if(SHERD_BASH AND NOT CMAKE_CROSSCOMPILING AND NOT SHERD_SANITIZE)
    add_custom_command(OUTPUT "${PROJECT_BINARY_DIR}/sherd.1"
      COMMAND "${SHERD_BASH}" "${PROJECT_SOURCE_DIR}/cli/manual.sh" $<TARGET_FILE:sherd> "${PROJECT_SOURCE_DIR}/cli/sherd.1.in"
              "${PROJECT_BINARY_DIR}/sherd.1"
      DEPENDS sherd cli/manual.sh cli/sherd.1.in COMMENT "Writing sherd.1" VERBATIM)
    add_custom_target(sherd_manual ALL DEPENDS "${PROJECT_BINARY_DIR}/sherd.1")
    install(FILES "${PROJECT_BINARY_DIR}/sherd.1" DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT command)
  endif()
endif()
