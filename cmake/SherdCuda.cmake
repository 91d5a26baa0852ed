# SPDX-License-Identifier: MIT
# CUDA. SHERD_CUDA: AUTO (where nvcc and the runtime are found), ON (required), OFF. CUDA comes from a toolkit (nvcc in PATH,
# /usr/local/cuda, CUDAToolkit_ROOT, CUDA_PATH) or from NVIDIA's Python wheels: nvidia/cuda_nvcc, nvidia/cuda_runtime, … of
# CUDA 12, nvidia/cu13 of CUDA 13. nvcc is called by rules of our own, so that a machine without it configures nothing about
# CUDA; no GPU is needed. The runtime is linked statically where it can be: one program with and without a driver.
#
# Sets SHERD_HAVE_CUDA, SHERD_NVCC, SHERD_CUDA_INCLUDE, SHERD_CUDART, and offers
#   sherd_cuda_archive(NAME kernels SOURCES a.cu … [FLAGS …] [DEPENDS headers…]): target NAME makes ${NAME}_ARCHIVE, a static
#   library with code for SHERD_CUDA_ARCHITECTURES and PTX of the last.
set(SHERD_CUDA AUTO CACHE STRING "Build the CUDA device: AUTO, ON or OFF")
set_property(CACHE SHERD_CUDA PROPERTY STRINGS AUTO ON OFF)
option(SHERD_CUDA_STUB "Build the tests of the CUDA device on a stub of CUDA's runtime (needs neither CUDA nor a GPU)" OFF)
set(SHERD_CUDA_ARCHITECTURES "80;86;89;90;100" CACHE STRING "Compute capabilities to compile kernels for; the last also as PTX")
set(SHERD_CUDA_FLAGS -O3 -std=c++17 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true)
set(SHERD_HAVE_CUDA OFF)
if(NOT SHERD_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SHERD_CUDA=${SHERD_CUDA}: give AUTO, ON or OFF")
endif()

function(sherd_find_cuda)
  set(packages "lib/python3*/site-packages/nvidia")
  file(GLOB wheels "$ENV{VIRTUAL_ENV}/${packages}/*" "$ENV{CONDA_PREFIX}/${packages}/*" "$ENV{HOME}/.local/${packages}/*"
    "${PROJECT_SOURCE_DIR}/build/cuda-toolkit/${packages}/*" "/usr/local/lib/python3*/*-packages/nvidia/*"
    "/usr/lib/python3*/*-packages/nvidia/*" "/opt/conda/${packages}/*")
  set(roots ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_PATH} $ENV{CUDA_HOME} /usr/local/cuda ${wheels})
  find_program(SHERD_NVCC nvcc HINTS ${roots} PATH_SUFFIXES bin)
  # What lies beside nvcc first: parts of two toolkits do not fit.
  set(beside "")
  if(SHERD_NVCC)
    get_filename_component(beside "${SHERD_NVCC}" REALPATH)
    get_filename_component(beside "${beside}" DIRECTORY)
    get_filename_component(beside "${beside}" DIRECTORY)
    get_filename_component(siblings "${beside}" DIRECTORY)
    list(APPEND beside "${siblings}/cuda_runtime")
  endif()
  set(targets targets/x86_64-linux targets/sbsa-linux)
  find_path(SHERD_CUDA_INCLUDE cuda_runtime_api.h HINTS ${beside} ${roots}
    PATH_SUFFIXES include targets/x86_64-linux/include targets/sbsa-linux/include)
  find_library(SHERD_CUDART NAMES cudart_static cudart libcudart.so.13 libcudart.so.12 HINTS ${beside} ${roots}
    PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
  mark_as_advanced(SHERD_NVCC SHERD_CUDA_INCLUDE SHERD_CUDART)
endfunction()

# nvcc of the wheels of CUDA 12 looks for headers only beside itself; its own crt/ may lie in a third place.
function(sherd_try_nvcc)
  file(WRITE "${PROJECT_BINARY_DIR}/cuda-probe/probe.cu" "__global__ void probe(int *p) { *p = 1; }\n")
  execute_process(COMMAND "${SHERD_NVCC}" -I "${SHERD_CUDA_INCLUDE}" -c probe.cu -o probe.o
    WORKING_DIRECTORY "${PROJECT_BINARY_DIR}/cuda-probe" RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(NOT failed)
    set(SHERD_NVCC_WORKS "${SHERD_NVCC}" CACHE INTERNAL "the nvcc that compiled a probe")
    return()
  endif()
  string(STRIP "${said}" said)
  if(SHERD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHERD_CUDA=ON, but ${SHERD_NVCC} cannot compile: ${said}")
  endif()
  message(STATUS "  CUDA: ${SHERD_NVCC} cannot compile, built without CUDA: ${said}")
endfunction()

if(NOT SHERD_CUDA STREQUAL "OFF")
  sherd_find_cuda()
  if(SHERD_NVCC AND SHERD_CUDA_INCLUDE AND SHERD_CUDART)
    if(NOT SHERD_NVCC_WORKS STREQUAL SHERD_NVCC)
      sherd_try_nvcc()
    endif()
    if(SHERD_NVCC_WORKS STREQUAL SHERD_NVCC)
      set(SHERD_HAVE_CUDA ON)
    endif()
  elseif(SHERD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHERD_CUDA=ON, but not all was found: nvcc '${SHERD_NVCC}', cuda_runtime_api.h '${SHERD_CUDA_INCLUDE}', "
      "cudart '${SHERD_CUDART}'; set CUDAToolkit_ROOT")
  endif()
endif()

if(SHERD_HAVE_CUDA)
  execute_process(COMMAND "${SHERD_NVCC}" --list-gpu-code OUTPUT_VARIABLE sherd_cuda_known)
  set(sherd_cuda_codes "")
  set(sherd_cuda_ptx "")
  set(sherd_cuda_names "")
  foreach(arch ${SHERD_CUDA_ARCHITECTURES})
    if(sherd_cuda_known MATCHES "sm_${arch}\n")
      list(APPEND sherd_cuda_codes "-gencode" "arch=compute_${arch},code=sm_${arch}")
      set(sherd_cuda_ptx "-gencode" "arch=compute_${arch},code=compute_${arch}")
      list(APPEND sherd_cuda_names "sm_${arch}")
      set(sherd_cuda_last "compute_${arch}")
    else()
      message(STATUS "  CUDA: this nvcc does not know sm_${arch}, left out")
    endif()
  endforeach()
  if(NOT sherd_cuda_codes)
    message(FATAL_ERROR "SHERD_CUDA_ARCHITECTURES=${SHERD_CUDA_ARCHITECTURES}: ${SHERD_NVCC} knows none of them")
  endif()
  string(REPLACE ";" ", " SHERD_CUDA_TARGETS "${sherd_cuda_names};${sherd_cuda_last} (PTX)")
  set(SHERD_CUDA_CODES ${sherd_cuda_codes} ${sherd_cuda_ptx})
endif()

function(sherd_cuda_archive)
  cmake_parse_arguments(T "" "NAME" "SOURCES;FLAGS;DEPENDS" ${ARGN})
  set(archive "${CMAKE_CURRENT_BINARY_DIR}/lib${T_NAME}.a")
  set(objects "")
  foreach(source ${T_SOURCES})
    get_filename_component(base "${source}" NAME_WE)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${base}.cu${CMAKE_C_OUTPUT_EXTENSION}")
    add_custom_command(OUTPUT "${object}"
      COMMAND "${SHERD_NVCC}" ${T_FLAGS} ${SHERD_CUDA_CODES} -Xcompiler=-fPIC,-fvisibility=hidden,-Wall
        -I "${PROJECT_SOURCE_DIR}" -I "${PROJECT_SOURCE_DIR}/include" -I "${SHERD_CUDA_INCLUDE}"
        -MD -MF "${object}.d" -c "${source}" -o "${object}"
      DEPENDS "${source}" ${T_DEPENDS} DEPFILE "${object}.d" COMMENT "Compiling ${base}.cu" VERBATIM)
    list(APPEND objects "${object}")
  endforeach()
  add_custom_command(OUTPUT "${archive}"
    COMMAND "${CMAKE_COMMAND}" -E rm -f "${archive}"
    COMMAND "${CMAKE_AR}" rcs "${archive}" ${objects}
    DEPENDS ${objects} COMMENT "Archiving ${T_NAME}" VERBATIM)
  add_custom_target(${T_NAME} DEPENDS "${archive}")
  set(${T_NAME}_ARCHIVE "${archive}" PARENT_SCOPE)
endfunction()
