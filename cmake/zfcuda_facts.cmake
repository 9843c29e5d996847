# Asks the Python side of the build, so that there is one place that decides: writes zfcuda_build_facts.h and
# _build_facts.py into the build folder, and sets
#   CMAKE_PREFIX_PATH     with torch's own CMake package
#   ZFCUDA_MODULE_SUFFIX  of this Python's extension modules
#   ZFCUDA_WITH_CUDA, ZFCUDA_NVCC, ZFCUDA_ARCHITECTURES, ZFCUDA_CUDART
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/facts.py ${CMAKE_BINARY_DIR}
  COMMAND_ERROR_IS_FATAL ANY)
include(${CMAKE_BINARY_DIR}/zfcuda_facts.cmake)
