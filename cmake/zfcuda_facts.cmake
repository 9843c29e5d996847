# Asks the Python side of the build, so that there is one place that decides: writes zfcuda_build_facts.h and
# _build_facts.py into the build folder, and sets
#   ZFCUDA_OPS, ZFCUDA_MODULE                                 sources; after adding a file run cmake again
#   ZFCUDA_CXX_FLAGS, ZFCUDA_NVCC_FLAGS, ZFCUDA_LINK_FLAGS    all but the files,
#   ZFCUDA_SYSTEM_INCLUDES                                    and others' headers
#   ZFCUDA_MODULE_FLAGS                                       more of them, for the module
#   ZFCUDA_MODULE_SUFFIX                                      of this Python's extension modules
#   ZFCUDA_WITH_CUDA, ZFCUDA_NVCC, ZFCUDA_CUDART
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/facts.py ${CMAKE_BINARY_DIR}
  COMMAND_ERROR_IS_FATAL ANY)
include(${CMAKE_BINARY_DIR}/zfcuda_facts.cmake)
