/* A CUDA device that computes nothing: the calls of the driver, the runtime, cuBLAS and cuDNN that ONNX Runtime's CUDA
   provider makes while it creates a session. They succeed; memory is the host's. Which node the provider takes is then
   decided by its own code, and that is all that may be read from such a session: whatever would compute ends the
   process with status 97. Calls that are not here are generated as weak functions that return 0 (`build.py`).

   Types and numbers are those of CUDA 13 (driver_types.h of nvidia-cuda-runtime); no header is needed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMPUTES(name)                                                                                              \
    int name(void) {                                                                                                \
        static const char text[] = "CUDA stand-in: " #name " was called, and a stand-in computes nothing\n";        \
        if (write(2, text, sizeof text - 1)) {}                                                                     \
        _exit(97);                                                                                                  \
    }
#define GIVES_HANDLE(name)                                                                                          \
    int name(void **handle) { *handle = calloc(1, 4096); return 0; }
#define GIVES_HANDLE_UNLESS(name, fault, code)                                                                      \
    int name(void **handle) { *handle = calloc(1, 4096); return broken(fault) ? code : 0; }
#define GIVES_MEMORY(name, ...)                                                                                     \
    int name(void **memory, size_t bytes __VA_ARGS__) { *memory = calloc(1, bytes ? bytes : 1); return 0; }
#define FREES(name, ...)                                                                                            \
    int name(void *memory __VA_ARGS__) { free(memory); return 0; }

/* The beginning of cudaDeviceProp; all of it has 1008 bytes, the rest of which stay 0. */
struct properties {
    char name[256]; char uuid[16]; char luid[8]; unsigned luid_node_mask;
    size_t total_memory, shared_per_block; int registers_per_block, warp_size; size_t pitch;
    int threads_per_block, threads[3], grid[3]; size_t constant_memory; int major, minor;
    size_t alignment, pitch_alignment; int multiprocessors;
};

static _Thread_local int current;

static int devices(void) {
    const char *text = getenv("CUDA_STANDIN_DEVICES");
    return text ? atoi(text) : 1;
}

/* What is wrong with the installation, for tests of what is said about it: CUDA_STANDIN_FAULT. */
static int broken(const char *part) {
    const char *text = getenv("CUDA_STANDIN_FAULT");
    return text && !strcmp(text, part);
}

int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = devices(); return 0; }
int cudaGetDeviceCount(int *count) { *count = devices(); return broken("driver") ? 35 : 0; }
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) {
    if (broken("driver")) return 35; /* cudaErrorInsufficientDriver */
    if (device < 0 || device >= devices()) return 101; /* cudaErrorInvalidDevice */
    current = device;
    return 0;
}
int cudaGetDeviceProperties(struct properties *p, int device) {
    memset(p, 0, 1008);
    strcpy(p->name, "stand-in (computes nothing)");
    p->total_memory = (size_t)80 << 30;
    p->shared_per_block = 49152; p->registers_per_block = 65536; p->warp_size = 32; p->threads_per_block = 1024;
    p->grid[0] = 2147483647; p->grid[1] = p->grid[2] = 65535;
    p->major = 9; p->multiprocessors = 132;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : 1; /* capability; multiprocessors */
    return 0;
}
static int succeeds(void) { return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **call, unsigned version, unsigned long long flags, int *found) {
    *call = succeeds;
    if (found) *found = 0; /* cudaDriverEntryPointSuccess */
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { *status = 0; return 0; }
int cudaThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int cudaDriverGetVersion(int *version) { *version = broken("driver") ? 12020 : 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaMemGetInfo(size_t *left, size_t *total) { *left = *total = (size_t)64 << 30; return 0; }
const char *cudaGetErrorString(int code) {
    return code == 35 ? "CUDA driver version is insufficient for CUDA runtime version" : code == 2 ? "out of memory" : "unknown";
}
const char *cudaGetErrorName(int code) { return code == 35 ? "cudaErrorInsufficientDriver" : "cudaError"; }

int cudaMalloc(void **memory, size_t bytes) {
    *memory = calloc(1, bytes ? bytes : 1);
    return broken("memory") ? 2 : 0; /* cudaErrorMemoryAllocation */
}
GIVES_MEMORY(cudaMallocHost)
GIVES_MEMORY(cudaHostAlloc, , unsigned flags)
GIVES_MEMORY(cudaMallocAsync, , void *stream)
FREES(cudaFree)
FREES(cudaFreeHost)
FREES(cudaFreeAsync, , void *stream)
int cudaMallocFromPoolAsync(void **m, size_t n, void *pool, void *stream) { *m = calloc(1, n ? n : 1); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { memmove(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) { memmove(to, from, n); return 0; }
int cudaMemset(void *to, int value, size_t n) { memset(to, value, n); return 0; }
int cudaMemsetAsync(void *to, int value, size_t n, void *stream) { memset(to, value, n); return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaEventElapsedTime(float *ms, void *from, void *to) { *ms = 0; return 0; }
int cudaPointerGetAttributes(int *attributes, const void *pointer) {
    memset(attributes, 0, 32); /* type, device, devicePointer, hostPointer */
    attributes[0] = 2; /* cudaMemoryTypeDevice */
    attributes[1] = current;
    return 0;
}

GIVES_HANDLE(cudaStreamCreate)
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
GIVES_HANDLE(cudaEventCreate)
int cudaEventCreateWithFlags(void **event, unsigned flags) { return cudaEventCreate(event); }
GIVES_HANDLE_UNLESS(cublasCreate_v2, "cublas", 1) /* CUBLAS_STATUS_NOT_INITIALIZED */
GIVES_HANDLE(cublasLtCreate)
GIVES_HANDLE_UNLESS(cudnnCreate, "cudnn", 1001) /* CUDNN_STATUS_NOT_INITIALIZED */
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
size_t cudnnGetVersion(void) { return 92600; }
int cudnnGetProperty(int which, int *value) { /* MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL */
    *value = which == 0 ? 9 : which == 1 ? (broken("old cudnn") ? 1 : 99) : 0;
    return 0;
}
const char *cudnnGetErrorString(int code) { return "an error of the stand-in"; }

COMPUTES(cudaLaunchKernel)
COMPUTES(__cudaLaunchKernel)
COMPUTES(cudaLaunchKernelExC)
COMPUTES(cudaLaunchCooperativeKernel)
COMPUTES(cudaGraphLaunch)
COMPUTES(cublasSgemm_v2)
COMPUTES(cublasDgemm_v2)
COMPUTES(cublasGemmEx)
COMPUTES(cublasGemmBatchedEx)
COMPUTES(cublasGemmStridedBatchedEx)
COMPUTES(cublasSgemmBatched)
COMPUTES(cublasDgemmBatched)
COMPUTES(cublasSgemmStridedBatched)
COMPUTES(cublasDgemmStridedBatched)
COMPUTES(cublasLtMatmul)
COMPUTES(cudnnConvolutionForward)
COMPUTES(cudnnBackendExecute)
COMPUTES(cudnnPoolingForward)
COMPUTES(cudnnReduceTensor)
COMPUTES(cudnnSoftmaxForward)
