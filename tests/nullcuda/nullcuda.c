// A CUDA of no device: allocations are host memory, launches do nothing, captures are counted, and whatever a real
// capture refuses (synchronisation, unsafe calls, work on other streams) is refused here too.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dlfcn.h>
#include <pthread.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdint.h>
typedef int cublasStatus_t, cublasMath_t, cublasPointerMode_t, cublasComputeType_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatrixLayoutAttribute_t, cublasLtMatmulPreferenceAttributes_t, cudaDataType_;
typedef void *cublasHandle_t, *cublasLtHandle_t, *cublasLtMatmulDesc_t, *cublasLtMatrixLayout_t,
    *cublasLtMatmulPreference_t;
typedef struct {
  uint64_t data[8];
} cublasLtMatmulAlgo_t;
typedef struct {
  cublasLtMatmulAlgo_t algo;
  size_t workspaceSize;
  int state;
  float waves;
  int reserved[4];
} cublasLtMatmulHeuristicResult_t;

#define E __attribute__((visibility("default")))
typedef struct {
  long kernels, triton, cudnn, blas, copies, sets;
} Count;
static Count total, captured;
static int capturing;
static unsigned long long capture_id = 1;
static void* joined[64];
static int n_joined;
static __thread cudaError_t last;
static __thread int mode_ = cudaStreamCaptureModeGlobal;
static int capture_mode;
static cudaError_t err(cudaError_t e, const char* what) {
  if (e) {
    last = e;
    fprintf(stderr, "nullcuda: %s refused during capture\n", what);
  }
  return e;
}
static int in_capture(void* s) {
  if (capturing)
    for (int i = 0; i < n_joined; i++)
      if (joined[i] == s) return 1;
  return 0;
}
static cudaError_t unsafe(const char* what) {
  if (capturing && mode_ != cudaStreamCaptureModeRelaxed && capture_mode != cudaStreamCaptureModeRelaxed)
    return err(cudaErrorStreamCaptureUnsupported, what);
  return cudaSuccess;
}
static cudaError_t sync_(const char* what) {
  if (capturing) return err(cudaErrorStreamCaptureUnsupported, what);
  return cudaSuccess;
}
static cudaError_t work(void* s, long* t, long* c, const char* what) {
  ++*t;
  if (capturing) {
    if (in_capture(s)) ++*c;
    else {
      fprintf(stderr, "nullcuda: %s on stream %p, which is not captured\n", what, s);
      return err(cudaErrorStreamCaptureImplicit, what);
    }
  }
  return cudaSuccess;
}
#define WORK(s, field, what) work((void*)(s), &total.field, &captured.field, what)

// --- launches
static __thread struct {
  dim3 g, b;
  size_t sh;
  void* s;
} cfg;
E unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t sh, struct CUstream_st* s) {
  cfg.g = g;
  cfg.b = b;
  cfg.sh = sh;
  cfg.s = s;
  return 0;
}
E cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* sh, void* s) {
  *g = cfg.g;
  *b = cfg.b;
  *sh = cfg.sh;
  *(void**)s = cfg.s;
  return 0;
}
E void** __cudaRegisterFatBinary(void* p) {
  static void* h[4];
  return h;
}
E void __cudaRegisterFatBinaryEnd(void** h) {}
E void __cudaUnregisterFatBinary(void** h) {}
E void __cudaRegisterFunction(void** h, const char* a, char* b, const char* c, int d, void* e, void* f, void* g,
                              void* i, int* j) {}
E void __cudaRegisterVar(void** h, char* a, char* b, const char* c, int d, size_t e, int f, int g) {}
E cudaError_t __cudaGetKernel(void** k, const void* f) {
  *k = (void*)f;
  return 0;
}
E cudaError_t __cudaLaunchKernel(void* k, dim3 g, dim3 b, void** a, size_t sh, cudaStream_t s) {
  return WORK(s, kernels, "a kernel");
}
E cudaError_t cudaLaunchKernel(const void* k, dim3 g, dim3 b, void** a, size_t sh, cudaStream_t s) {
  return WORK(s, kernels, "a kernel");
}
E cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* k, void** a) {
  return WORK(c->stream, kernels, "a kernel");
}
E cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* d) {
  f(d);
  return 0;
}
E cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void* d, unsigned x) {
  f(s, 0, d);
  return 0;
}
E cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes* a, const void* f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  a->numRegs = 32;
  a->binaryVersion = a->ptxVersion = 90;
  return 0;
}
E cudaError_t cudaFuncSetAttribute(const void* f, enum cudaFuncAttribute a, int v) { return 0; }
E cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void* f, int b, size_t s,
                                                                     unsigned x) {
  *n = 2;
  return 0;
}
// --- device
E cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return 0;
}
E cudaError_t cudaGetDevice(int* n) {
  *n = 0;
  return 0;
}
E cudaError_t cudaSetDevice(int n) { return n ? cudaErrorInvalidDevice : 0; }
E cudaError_t cudaDeviceCanAccessPeer(int* c, int a, int b) {
  *c = 0;
  return 0;
}
E cudaError_t cudaDeviceEnablePeerAccess(int a, unsigned b) { return 0; }
E cudaError_t cudaDeviceGetAttribute(int* v, enum cudaDeviceAttr a, int d) {
  switch (a) {
    case cudaDevAttrComputeCapabilityMajor:
      *v = 9;
      break;
    case cudaDevAttrMultiProcessorCount:
      *v = 132;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *v = 232448;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *v = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *v = 2048;
      break;
    case cudaDevAttrWarpSize:
      *v = 32;
      break;
    default:
      *v = 0;
  }
  return 0;
}
E cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* p, int d) {
  memset(p, 0, sizeof *p);
  const char* name = getenv("NULLCUDA_NAME");
  strncpy(p->name, name ? name : "null H100", sizeof p->name - 1);
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = 132;
  p->totalGlobalMem = 80ull << 30;
  p->warpSize = 32;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerMultiprocessor = p->regsPerBlock = 65536;
  p->sharedMemPerMultiprocessor = 233472;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->l2CacheSize = 50 << 20;
  p->maxThreadsPerBlock = 1024;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->textureAlignment = 512;
  p->memoryBusWidth = 5120;
  p->concurrentKernels = 1;
  p->unifiedAddressing = 1;
  return 0;
}
E cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* m, int d) {
  *m = (void*)8;
  return 0;
}
E cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int d) {
  snprintf(s, n, "0000:00:00.0");
  return 0;
}
E cudaError_t cudaDeviceGetStreamPriorityRange(int* l, int* g) {
  *l = 0;
  *g = -5;
  return 0;
}
E cudaError_t cudaDeviceSynchronize(void) { return sync_("cudaDeviceSynchronize"); }
E cudaError_t cudaDriverGetVersion(int* v) {
  *v = 13000;
  return 0;
}
E cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = 13000;
  return 0;
}
E cudaError_t cudaGetLastError(void) {
  cudaError_t e = last;
  last = 0;
  return e;
}
E cudaError_t cudaPeekAtLastError(void) { return last; }
E const char* cudaGetErrorString(cudaError_t e) {
  return e == 900   ? "operation not permitted when stream is capturing"
         : e == 906 ? "work on a stream that is not captured"
         : e        ? "null CUDA error"
                    : "no error";
}
E const char* cudaGetErrorName(cudaError_t e) { return e == 900 ? "cudaErrorStreamCaptureUnsupported" : "nullcuda"; }
E cudaError_t cudaProfilerStart(void) { return 0; }
E cudaError_t cudaProfilerStop(void) { return 0; }
E cudaError_t cudaGetDriverEntryPointByVersion(const char* n, void** f, unsigned v, unsigned long long x,
                                               enum cudaDriverEntryPointQueryResult* r) {
  *f = dlsym(RTLD_DEFAULT, n);
  if (!*f) {
    char b[128];
    snprintf(b, 128, "%s_v2", n);
    *f = dlsym(RTLD_DEFAULT, b);
  }
  if (!*f) *f = (void*)cudaProfilerStart;
  if (r) *r = cudaDriverEntryPointSuccess;
  return 0;
}
E cudaError_t cudaGetSymbolAddress(void** p, const void* s) {
  static char b[1 << 16];
  *p = b;
  return 0;
}
// --- memory
#define SIZES 65536
E cudaError_t cudaMalloc(void** p, size_t n) {
  cudaError_t e = unsafe("cudaMalloc");
  if (e) return e;
  *p = NULL;
  if (posix_memalign(p, 512, n ? n : 512)) return cudaErrorMemoryAllocation;
  if (n < (1u << 26)) memset(*p, 0, n);
  return 0;
}
E cudaError_t cudaFree(void* p) {
  cudaError_t e = p ? unsafe("cudaFree") : 0;
  if (e) return e;
  free(p);
  return 0;
}
E cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t s) {
  *p = calloc(1, n);
  return 0;
}
E cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  free(p);
  return 0;
}
E cudaError_t cudaHostAlloc(void** p, size_t n, unsigned f) {
  cudaError_t e = unsafe("cudaHostAlloc");
  if (e) return e;
  *p = calloc(1, n);
  return 0;
}
E cudaError_t cudaFreeHost(void* p) {
  free(p);
  return 0;
}
E cudaError_t cudaHostRegister(void* p, size_t n, unsigned f) { return 0; }
E cudaError_t cudaHostUnregister(void* p) { return 0; }
E cudaError_t cudaMemGetInfo(size_t* f, size_t* t) {
  *f = 79ull << 30;
  *t = 80ull << 30;
  return 0;
}
E cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t m, enum cudaMemPoolAttr a, void* v) {
  *(unsigned long long*)v = 0;
  return 0;
}
E cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t m, enum cudaMemPoolAttr a, void* v) { return 0; }
E cudaError_t cudaMemPoolSetAccess(cudaMemPool_t m, const struct cudaMemAccessDesc* d, size_t n) { return 0; }
E cudaError_t cudaMemPoolTrimTo(cudaMemPool_t m, size_t n) { return 0; }
E cudaError_t cudaMemcpy(void* d, const void* s, size_t n, enum cudaMemcpyKind k) {
  cudaError_t e = sync_("cudaMemcpy");
  if (e) return e;
  total.copies++;
  memcpy(d, s, n);
  return 0;
}
E cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, enum cudaMemcpyKind k, cudaStream_t st) {
  cudaError_t e = WORK(st, copies, "a copy");
  if (e) return e;
  if (!capturing) memcpy(d, s, n);
  else if (k == cudaMemcpyDeviceToHost || k == cudaMemcpyHostToDevice)
    return err(cudaErrorStreamCaptureUnsupported, "a copy between host and device");
  return 0;
}
E cudaError_t cudaMemcpyPeerAsync(void* d, int a, const void* s, int b, size_t n, cudaStream_t st) {
  return cudaMemcpyAsync(d, s, n, cudaMemcpyDeviceToDevice, st);
}
E cudaError_t cudaMemcpyToSymbol(const void* a, const void* s, size_t n, size_t o, enum cudaMemcpyKind k) { return 0; }
E cudaError_t cudaMemset(void* d, int v, size_t n) {
  cudaError_t e = sync_("cudaMemset");
  if (e) return e;
  memset(d, v, n);
  return 0;
}
E cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t s) {
  cudaError_t e = WORK(s, sets, "a fill");
  if (e) return e;
  if (!capturing) memset(d, v, n);
  return 0;
}
E cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeUnregistered;
  return 0;
}
E cudaError_t cudaIpcCloseMemHandle(void* p) { return 0; }
E cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* h, cudaEvent_t e) { return 0; }
E cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* h, void* p) { return 0; }
E cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* e, cudaIpcEventHandle_t h) { return 0; }
E cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t h, unsigned f) { return 0; }
// --- streams, events
typedef struct {
  unsigned long long in_capture;
} Event;
E cudaError_t cudaStreamCreate(cudaStream_t* s) {
  *s = malloc(64);
  return 0;
}
E cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned f, int p) {
  *s = malloc(64);
  return 0;
}
E cudaError_t cudaStreamDestroy(cudaStream_t s) { return 0; }
E cudaError_t cudaStreamGetPriority(cudaStream_t s, int* p) {
  *p = 0;
  return 0;
}
E cudaError_t cudaStreamQuery(cudaStream_t s) { return unsafe("cudaStreamQuery"); }
E cudaError_t cudaStreamSynchronize(cudaStream_t s) { return sync_("cudaStreamSynchronize"); }
E cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) {
  if (capturing) {
    if (((Event*)e)->in_capture == capture_id) {
      if (!in_capture(s) && n_joined < 64) joined[n_joined++] = s;
    } else if (in_capture(s)) return err(cudaErrorStreamCaptureIsolation, "a wait for an event of before the capture");
  }
  return 0;
}
E cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = calloc(1, sizeof(Event));
  return 0;
}
E cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned f) {
  *e = calloc(1, sizeof(Event));
  return 0;
}
E cudaError_t cudaEventDestroy(cudaEvent_t e) {
  free(e);
  return 0;
}
E cudaError_t cudaEventElapsedTime(float* t, cudaEvent_t a, cudaEvent_t b) {
  *t = 1.0f;
  return 0;
}
E cudaError_t cudaEventQuery(cudaEvent_t e) { return unsafe("cudaEventQuery"); }
E cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  ((Event*)e)->in_capture = in_capture(s) ? capture_id : 0;
  return 0;
}
E cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return cudaEventRecord(e, s); }
E cudaError_t cudaEventSynchronize(cudaEvent_t e) { return sync_("cudaEventSynchronize"); }
E cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode* m) {
  int o = mode_;
  mode_ = *m;
  *m = o;
  return 0;
}
E cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
  if (!s) return err(900, "capture of the default stream");
  capturing = 1;
  capture_id++;
  n_joined = 0;
  joined[n_joined++] = s;
  capture_mode = m;
  memset(&captured, 0, sizeof captured);
  return 0;
}
E cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  capturing = 0;
  n_joined = 0;
  *g = malloc(64);
  fprintf(
      stderr,
      "nullcuda: captured %ld nodes: %ld kernels of ATen, %ld of Triton, %ld cudnn, %ld blas, %ld copies, %ld fills\n",
      captured.kernels + captured.triton + captured.cudnn + captured.blas + captured.copies + captured.sets,
      captured.kernels, captured.triton, captured.cudnn, captured.blas, captured.copies, captured.sets);
  return 0;
}
E cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus* c) {
  *c = in_capture(s) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return 0;
}
E cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus* c, unsigned long long* id,
                                       cudaGraph_t* g, const cudaGraphNode_t** d, const cudaGraphEdgeData** ed,
                                       size_t* n) {
  *c = in_capture(s) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id) *id = capture_id;
  if (g) *g = (void*)64;
  if (d) *d = NULL;
  if (ed) *ed = NULL;
  if (n) *n = 0;
  return 0;
}
E cudaError_t cudaGraphDebugDotPrint(cudaGraph_t g, const char* p, unsigned f) { return 0; }
E cudaError_t cudaGraphDestroy(cudaGraph_t g) { return 0; }
E cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { return 0; }
E cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t* n, size_t* c) {
  *c = 1;
  return 0;
}
E cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* x, cudaGraph_t g, unsigned long long f) {
  *x = malloc(64);
  return 0;
}
E cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) { return WORK(s, kernels, "a graph"); }
E cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t n, cudaGraphNode_t* d, cudaGraphEdgeData* e, size_t* c) {
  *c = 0;
  return 0;
}
// --- the driver, as Triton and torch's launchers use it
typedef int R;
E R cuInit(unsigned f) { return 0; }
E R cuDriverGetVersion(int* v) {
  *v = 13000;
  return 0;
}
E R cuDeviceGet(int* d, int n) {
  *d = 0;
  return 0;
}
E R cuDeviceGetCount(int* n) {
  *n = 1;
  return 0;
}
E R cuDeviceGetAttribute(int* v, int a, int d) {
  switch (a) {
    case 75:
      *v = 9;
      break;
    case 76:
      *v = 0;
      break;
    case 16:
      *v = 132;
      break;
    case 97:
      *v = 232448;
      break;
    case 81:
      *v = 233472;
      break;
    case 12:
    case 82:
      *v = 65536;
      break;
    case 10:
      *v = 32;
      break;
    case 36:
      *v = 2619000;
      break;
    case 37:
      *v = 5120;
      break;
    case 13:
      *v = 1980000;
      break;
    case 1:
      *v = 1024;
      break;
    default:
      *v = 0;
  }
  return 0;
}
E R cuDevicePrimaryCtxGetState(int d, unsigned* f, int* a) {
  *f = 0;
  *a = 1;
  return 0;
}
E R cuDevicePrimaryCtxRetain(void** c, int d) {
  *c = (void*)16;
  return 0;
}
E R cuCtxGetCurrent(void** c) {
  *c = (void*)16;
  return 0;
}
E R cuCtxSetCurrent(void* c) { return 0; }
E R cuCtxGetLimit(size_t* v, int l) {
  *v = 1 << 20;
  return 0;
}
E R cuCtxSetLimit(int l, size_t v) { return 0; }
E R cuModuleLoadData(void** m, const void* p) {
  if (unsafe("cuModuleLoadData")) return 900;
  *m = malloc(64);
  return 0;
}
E R cuModuleLoadDataEx(void** m, const void* p, unsigned n, void* o, void* v) { return cuModuleLoadData(m, p); }
E R cuModuleLoad(void** m, const char* p) { return cuModuleLoadData(m, p); }
E R cuModuleUnload(void* m) { return 0; }
E R cuModuleGetFunction(void** f, void* m, const char* n) {
  *f = malloc(64);
  return 0;
}
E R cuFuncGetAttribute(int* v, int a, void* f) {
  *v = a == 4 ? 64 : a == 0 ? 1024 : 0;
  return 0;
}
E R cuFuncSetAttribute(void* f, int a, int v) { return 0; }
E R cuFuncSetCacheConfig(void* f, int c) { return 0; }
E R cuGetErrorString(int e, const char** s) {
  *s = e == 900 ? "operation not permitted when stream is capturing" : "null CUDA error";
  return 0;
}
E R cuGetErrorName(int e, const char** s) {
  *s = "nullcuda";
  return 0;
}
E R cuOccupancyMaxActiveClusters(int* n, void* f, const void* c) {
  *n = 132;
  return 0;
}
E R cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void* f, int b, size_t s) {
  *n = 2;
  return 0;
}
E R cuTensorMapEncodeTiled(void) { return 0; }
E R cuPointerGetAttribute(void* v, int a, unsigned long long p) {
  *(unsigned long long*)v = p;
  return 0;
}
typedef struct {
  unsigned gx, gy, gz, bx, by, bz, sh;
  void* s;
} LC;
E R cuLaunchKernelEx(const LC* c, void* f, void** p, void** x) { return WORK(c->s, triton, "a Triton kernel"); }
E R cuLaunchKernel(void* f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned sh,
                   void* s, void** p, void** x) {
  return WORK(s, triton, "a Triton kernel");
}
E R cuLaunchCooperativeKernel(void* f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                              unsigned sh, void* s, void** p) {
  return WORK(s, triton, "a Triton kernel");
}
// --- cuBLAS
static __thread void* blas_stream;
E cublasStatus_t cublasCreate_v2(cublasHandle_t* h) {
  if (unsafe("cublasCreate")) return 1;
  *h = malloc(64);
  return 0;
}
E cublasStatus_t cublasDestroy_v2(cublasHandle_t h) { return 0; }
E cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t s) {
  blas_stream = s;
  return 0;
}
E cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void* w, size_t n) { return 0; }
E cublasStatus_t cublasGetMathMode(cublasHandle_t h, cublasMath_t* m) {
  *m = 0;
  return 0;
}
E cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t m) { return 0; }
E cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t* m) {
  *m = 0;
  return 0;
}
E cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t m) { return 0; }
#define GEMM(name) \
  E int name() { return WORK(blas_stream, blas, #name) ? 14 : 0; }
E cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                                cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                                cublasLtMatrixLayout_t dd, cublasLtMatmulPreference_t p, int n,
                                                cublasLtMatmulHeuristicResult_t* r, int* got) {
  memset(r, 0, sizeof *r);
  *got = 1;
  return 0;
}
E cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void* al, const void* A,
                                cublasLtMatrixLayout_t a, const void* B, cublasLtMatrixLayout_t b, const void* be,
                                const void* C, cublasLtMatrixLayout_t c, void* D, cublasLtMatrixLayout_t dd,
                                const cublasLtMatmulAlgo_t* al2, void* w, size_t n, cudaStream_t s) {
  return WORK(s, blas, "cublasLt") ? 14 : 0;
}
E cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t c, cudaDataType_t t) {
  *d = malloc(64);
  return 0;
}
E cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* d, cudaDataType t, uint64_t r, uint64_t c,
                                            int64_t l) {
  *d = malloc(64);
  return 0;
}
E cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* d) {
  *d = malloc(64);
  return 0;
}
E cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return 0; }
E cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t d) { return 0; }
E cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t d) { return 0; }
E cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void* b,
                                                size_t n) {
  return 0;
}
E cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t d, cublasLtMatrixLayoutAttribute_t a,
                                                  const void* b, size_t n) {
  return 0;
}
E cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t d,
                                                      cublasLtMatmulPreferenceAttributes_t a, const void* b, size_t n) {
  return 0;
}
// --- cuDNN
static __thread void* dnn_stream;
E cudnnStatus_t cudnnCreate(cudnnHandle_t* h) {
  if (unsafe("cudnnCreate")) return 1;
  *h = malloc(64);
  return 0;
}
E cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) {
  dnn_stream = s;
  return 0;
}
E cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t* s) {
  *s = dnn_stream;
  return 0;
}
E size_t cudnnGetVersion(void) { return 91900; }
E size_t cudnnGetCudartVersion(void) { return 13000; }
E const char* cudnnGetErrorString(cudnnStatus_t s) { return "null cudnn"; }
E void cudnnGetLastErrorString(char* m, size_t n) {
  if (n) *m = 0;
}
E cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t t, cudnnBackendDescriptor_t* d) {
  *d = calloc(1, 64);
  return 0;
}
E cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { return 0; }
E cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) { return 0; }
E cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t n,
                                         cudnnBackendAttributeType_t t, int64_t c, const void* a) {
  return 0;
}
E cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t n,
                                         cudnnBackendAttributeType_t t, int64_t want, int64_t* got, void* a) {
  int none = t == CUDNN_TYPE_NUMERICAL_NOTE || t == CUDNN_TYPE_BEHAVIOR_NOTE ||
             n == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES || n == CUDNN_ATTR_ENGINE_KNOB_INFO;
  if (got) *got = none ? 0 : 1;
  if (a && want && t == CUDNN_TYPE_INT64) *(int64_t*)a = 0;
  return 0;
}
E cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t p, cudnnBackendDescriptor_t v) {
  return WORK(dnn_stream, cudnn, "cudnn") ? 5000 : 0;
}
#define CREATE(name, type)        \
  E cudnnStatus_t name(type* d) { \
    *d = calloc(1, 64);           \
    return 0;                     \
  }
CREATE(cudnnCreateTensorDescriptor, cudnnTensorDescriptor_t)
CREATE(cudnnCreateActivationDescriptor, cudnnActivationDescriptor_t)
    CREATE(cudnnCreateFilterDescriptor, cudnnFilterDescriptor_t)
        CREATE(cudnnCreateConvolutionDescriptor, cudnnConvolutionDescriptor_t)
            CREATE(cudnnCreateSpatialTransformerDescriptor, cudnnSpatialTransformerDescriptor_t) E cudnnStatus_t
    cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(cudnnHandle_t h, cudnnBatchNormMode_t m,
                                                             cudnnBatchNormOps_t o, const cudnnTensorDescriptor_t x,
                                                             const cudnnTensorDescriptor_t z,
                                                             const cudnnTensorDescriptor_t y,
                                                             const cudnnTensorDescriptor_t b,
                                                             const cudnnActivationDescriptor_t a, size_t* n) {
  *n = 0;
  return 0;
}
E cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    cudnnHandle_t h, cudnnBatchNormMode_t m, cudnnBatchNormOps_t o, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t dy, const cudnnTensorDescriptor_t dz,
    const cudnnTensorDescriptor_t dx, const cudnnTensorDescriptor_t b, const cudnnActivationDescriptor_t a, size_t* n) {
  *n = 0;
  return 0;
}
E cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t h, cudnnBatchNormMode_t m,
                                                                     cudnnBatchNormOps_t o,
                                                                     const cudnnActivationDescriptor_t a,
                                                                     const cudnnTensorDescriptor_t x, size_t* n) {
  *n = 0;
  return 0;
}
int nullcuda_blas(const char* n) { return WORK(blas_stream, blas, n) ? 14 : 0; }
int nullcuda_dnn(const char* n) { return WORK(dnn_stream, cudnn, n) ? 5000 : 0; }
E void nullcuda_counts(long* out) { memcpy(out, &total, sizeof total); }
