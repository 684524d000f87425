extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCdotc_v2() { return nullcuda_blas("cublasCdotc_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCdotu_v2() { return nullcuda_blas("cublasCdotu_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgelsBatched() { return nullcuda_blas("cublasCgelsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgemmStridedBatched() {
  return nullcuda_blas("cublasCgemmStridedBatched");
}
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgemm_v2() { return nullcuda_blas("cublasCgemm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgemv_v2() { return nullcuda_blas("cublasCgemv_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgeqrfBatched() { return nullcuda_blas("cublasCgeqrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgetrfBatched() { return nullcuda_blas("cublasCgetrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCgetrsBatched() { return nullcuda_blas("cublasCgetrsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCtrsmBatched() { return nullcuda_blas("cublasCtrsmBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasCtrsm_v2() { return nullcuda_blas("cublasCtrsm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDdot_v2() { return nullcuda_blas("cublasDdot_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgelsBatched() { return nullcuda_blas("cublasDgelsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgemmStridedBatched() {
  return nullcuda_blas("cublasDgemmStridedBatched");
}
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgemm_v2() { return nullcuda_blas("cublasDgemm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgemv_v2() { return nullcuda_blas("cublasDgemv_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgeqrfBatched() { return nullcuda_blas("cublasDgeqrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgetrfBatched() { return nullcuda_blas("cublasDgetrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDgetrsBatched() { return nullcuda_blas("cublasDgetrsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDotEx() { return nullcuda_blas("cublasDotEx"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDtrsmBatched() { return nullcuda_blas("cublasDtrsmBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasDtrsm_v2() { return nullcuda_blas("cublasDtrsm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasGemmEx() { return nullcuda_blas("cublasGemmEx"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasGemmStridedBatchedEx() {
  return nullcuda_blas("cublasGemmStridedBatchedEx");
}
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSdot_v2() { return nullcuda_blas("cublasSdot_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgelsBatched() { return nullcuda_blas("cublasSgelsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgemmEx() { return nullcuda_blas("cublasSgemmEx"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgemmStridedBatched() {
  return nullcuda_blas("cublasSgemmStridedBatched");
}
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgemm_v2() { return nullcuda_blas("cublasSgemm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgemv_v2() { return nullcuda_blas("cublasSgemv_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgeqrfBatched() { return nullcuda_blas("cublasSgeqrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgetrfBatched() { return nullcuda_blas("cublasSgetrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasSgetrsBatched() { return nullcuda_blas("cublasSgetrsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasStrsmBatched() { return nullcuda_blas("cublasStrsmBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasStrsm_v2() { return nullcuda_blas("cublasStrsm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZdotc_v2() { return nullcuda_blas("cublasZdotc_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZdotu_v2() { return nullcuda_blas("cublasZdotu_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgelsBatched() { return nullcuda_blas("cublasZgelsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgemmStridedBatched() {
  return nullcuda_blas("cublasZgemmStridedBatched");
}
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgemm_v2() { return nullcuda_blas("cublasZgemm_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgemv_v2() { return nullcuda_blas("cublasZgemv_v2"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgeqrfBatched() { return nullcuda_blas("cublasZgeqrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgetrfBatched() { return nullcuda_blas("cublasZgetrfBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZgetrsBatched() { return nullcuda_blas("cublasZgetrsBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZtrsmBatched() { return nullcuda_blas("cublasZtrsmBatched"); }
extern int nullcuda_blas(const char*);
__attribute__((visibility("default"))) int cublasZtrsm_v2() { return nullcuda_blas("cublasZtrsm_v2"); }
extern int nullcuda_dnn(const char*);
__attribute__((visibility("default"))) int cudnnDestroyTensorDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnDestroyActivationDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnDestroyFilterDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnDestroyConvolutionDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnDestroySpatialTransformerDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnSetTensorNdDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnSetActivationDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnSetFilterNdDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnSetSpatialTransformerNdDescriptor() { return 0; }
__attribute__((visibility("default"))) int cudnnBatchNormalizationForwardInference() {
  return nullcuda_dnn("cudnnBatchNormalizationForwardInference");
}
__attribute__((visibility("default"))) int cudnnBatchNormalizationForwardTrainingEx() {
  return nullcuda_dnn("cudnnBatchNormalizationForwardTrainingEx");
}
__attribute__((visibility("default"))) int cudnnBatchNormalizationBackwardEx() {
  return nullcuda_dnn("cudnnBatchNormalizationBackwardEx");
}
__attribute__((visibility("default"))) int cudnnSpatialTfGridGeneratorForward() {
  return nullcuda_dnn("cudnnSpatialTfGridGeneratorForward");
}
__attribute__((visibility("default"))) int cudnnSpatialTfSamplerForward() {
  return nullcuda_dnn("cudnnSpatialTfSamplerForward");
}
