# Horovod asks CMake for a build with symbols for a debugger: with these its library has 57 MB, which every environment
# that is sent to a cluster would hold, and 2 MB without.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "optimised, without symbols")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "optimised, without symbols")
