# SPDX-License-Identifier: MIT
# cmake --install: both libraries, the public headers, a pkg-config file. The command installs itself in cli/.
include(GNUInstallDirs)
install(TARGETS sherd_static sherd_shared
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/sherd/sherd.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sherd)
if(SHERD_HAVE_MPI)
  install(FILES include/sherd/sherd_mpi.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sherd)
endif()
# What a static link needs besides libsherd.a: the interface of sherd_deps, as flags.
set(sherd_private_libs "-ljansson -lxxhash -pthread -lm")
get_target_property(sherd_linked sherd_deps INTERFACE_LINK_LIBRARIES)
foreach(pair "hwloc:-lhwloc" "numa:-lnuma")
  string(REPLACE ":" ";" parts "${pair}")
  list(GET parts 0 name)
  list(GET parts 1 flag)
  if("sherd_dep_${name}" IN_LIST sherd_linked)
    string(APPEND sherd_private_libs " ${flag}")
  endif()
endforeach()
file(RELATIVE_PATH sherd_up "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/sherd.pc.in sherd.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/sherd.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
