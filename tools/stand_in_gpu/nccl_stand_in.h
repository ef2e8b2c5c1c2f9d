// What Caffe needs of NCCL; nothing is sent.
#pragma once
#include "cuda_runtime.h"
#define NCCL_UNIQUE_ID_BYTES 128
typedef int ncclResult_t, ncclDataType_t;
typedef void* ncclComm_t;
enum { ncclSuccess };
enum { ncclFloat, ncclDouble, ncclSum };
struct ncclUniqueId { char bytes[NCCL_UNIQUE_ID_BYTES]; };
inline const char* ncclGetErrorString(int) { return ""; }
// By value, for Caffe passes constants that have no address.
#define IGNORE(name) template <class... A> inline int name(A...) { return 0; }
IGNORE(ncclCommInitRank) IGNORE(ncclCommInitAll) IGNORE(ncclGetUniqueId) IGNORE(ncclCommDestroy) IGNORE(ncclBcast) IGNORE(ncclAllReduce)
