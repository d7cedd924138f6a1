# Horovod asks CMake for a build with symbols for a debugger: of those, its library is six times as large, and compiling
# it takes longer.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "optimised, without symbols")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG" CACHE STRING "optimised, without symbols")
