// What the CUDA headers of the pip packages include and do not bring: nothing of it matters to a C compiler.
#ifndef HD
#define HD
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __device_builtin__
#define __cudart_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __CUDA_ARCH_HAS_FEATURE__(x) 0
#define __location__(a)
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline
#define CUDACC_DEPRECATED
#define __specialization_static static
#define __grid_constant__
#endif
