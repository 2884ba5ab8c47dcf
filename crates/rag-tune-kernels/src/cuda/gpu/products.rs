//! Products of matrices by cuBLASLt.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{CudaStream, result};

use super::failed;
use crate::cuda::device::DeviceError;
use crate::cuda::driver::{Factor, Product, ProductType};

/// For cuBLASLt; NVIDIA recommends 32 MiB from Hopper on.
const WORKSPACE_BYTES: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct Blas {
    handle: blas_sys::cublasLtHandle_t,
    workspace: u64,
    /// What cuBLASLt advises for a shape: asking takes longer than a small product.
    advice: Mutex<HashMap<Shape, Plan>>,
}

// SAFETY: cuBLASLt's handle may be used by any thread; the workspace is used on one stream only.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// What an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    d_type: ProductType,
    keeps: bool,
    /// Of `b`, `a`, `c` and `d`: the largest power of two up to 256 that divides the address.
    alignments: [u32; 4],
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    descriptor: blas_sys::cublasLtMatmulDesc_t,
    layouts: [blas_sys::cublasLtMatrixLayout_t; 3],
    algorithm: blas_sys::cublasLtMatmulAlgo_t,
}

fn blas_failed(call: &'static str) -> impl FnOnce(blas::CublasError) -> DeviceError {
    move |error| DeviceError::Call {
        call: call.to_owned(),
        problem: error.to_string(),
    }
}

impl Blas {
    pub(super) fn new(stream: &CudaStream) -> Result<Self, DeviceError> {
        // SAFETY: the stream is the device's.
        let workspace = unsafe { result::malloc_async(stream.cu_stream(), WORKSPACE_BYTES) };
        Ok(Self {
            handle: blas::create_handle().map_err(blas_failed("cublasLtCreate"))?,
            workspace: workspace.map_err(failed("cuMemAllocAsync"))?,
            advice: Mutex::default(),
        })
    }

    /// # Safety
    /// As [`Driver::multiply`](crate::cuda::driver::Driver::multiply).
    pub(super) unsafe fn multiply(
        &self,
        stream: &CudaStream,
        product: &Product,
    ) -> Result<(), DeviceError> {
        let plan = self.plan(product)?;
        let [left, right, result] = plan.layouts;
        // Row-major matrices are the transposes of column-major ones: `d^T = op(b)^T op(a)^T`.
        // SAFETY: descriptors live as long as `self`; addresses are the caller's promise.
        let multiplied = unsafe {
            blas::matmul(
                self.handle,
                plan.descriptor,
                (&raw const product.alpha).cast(),
                (&raw const product.beta).cast(),
                product.b.address as *const c_void,
                left,
                product.a.address as *const c_void,
                right,
                product.c as *const c_void,
                result,
                product.d as *mut c_void,
                result,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        };
        multiplied.map_err(blas_failed("cublasLtMatmul"))
    }

    fn plan(&self, product: &Product) -> Result<Plan, DeviceError> {
        let shape = Shape {
            sizes: [product.rows, product.cols, product.inner],
            strides: [product.a.stride, product.b.stride, product.stride],
            transposed: [product.a.transposed, product.b.transposed],
            d_type: product.d_type,
            keeps: product.beta != 0.0,
            alignments: [product.b.address, product.a.address, product.c, product.d].map(alignment),
        };
        let mut advice = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = advice.get(&shape) {
            return Ok(*plan);
        }
        let plan = self
            .ask(product, shape.alignments)
            .map_err(blas_failed("cublasLtMatmulAlgoGetHeuristic"))?;
        advice.insert(shape, plan);
        Ok(plan)
    }

    fn ask(&self, product: &Product, alignments: [u32; 4]) -> Result<Plan, blas::CublasError> {
        let bf16 = blas_sys::cudaDataType_t::CUDA_R_16BF;
        let f32 = blas_sys::cudaDataType_t::CUDA_R_32F;
        let d_type = match product.d_type {
            ProductType::F32 => f32,
            ProductType::Bf16 => bf16,
        };
        let compute = blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let descriptor = blas::create_matmul_desc(compute, f32)?;
        use blas_sys::cublasLtMatmulDescAttributes_t as Attribute;
        for (attribute, transposed) in [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, product.b.transposed),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, product.a.transposed),
        ] {
            let operation = i32::from(transposed); // CUBLAS_OP_N, CUBLAS_OP_T
            // SAFETY: the attribute is a 32-bit number, and the descriptor was just made.
            unsafe {
                blas::set_matmul_desc_attribute(
                    descriptor,
                    attribute,
                    (&raw const operation).cast(),
                    size_of::<i32>(),
                )?;
            }
        }
        let Product {
            rows, cols, inner, ..
        } = *product;
        // As they lie in memory, read as column-major: `[stride, rows in memory]`.
        let layout = |factor: Factor, [rows, cols]: [usize; 2]| {
            let [rows, cols] = if factor.transposed {
                [cols, rows]
            } else {
                [rows, cols]
            };
            blas::create_matrix_layout(bf16, cols as u64, rows as u64, factor.stride as i64)
        };
        let layouts = [
            layout(product.b, [inner, cols])?,
            layout(product.a, [rows, inner])?,
            blas::create_matrix_layout(d_type, cols as u64, rows as u64, product.stride as i64)?,
        ];
        use blas_sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let preference = blas::create_matmul_pref()?;
        let workspace = WORKSPACE_BYTES;
        // SAFETY: everything was just made, and the preference is given up when it has been read.
        let heuristic = unsafe {
            blas::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )?;
            // Untold, it takes 256 for granted, which rows in the middle of a matrix need not have.
            for (attribute, alignment) in [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ]
            .into_iter()
            .zip(alignments)
            {
                blas::set_matmul_pref_attribute(
                    preference,
                    attribute,
                    (&raw const alignment).cast(),
                    size_of::<u32>(),
                )?;
            }
            let [left, right, result] = layouts;
            let heuristic = blas::get_matmul_algo_heuristic(
                self.handle,
                descriptor,
                left,
                right,
                result,
                result,
                preference,
            );
            blas::destroy_matmul_pref(preference)?;
            heuristic?
        };
        Ok(Plan {
            descriptor,
            layouts,
            algorithm: heuristic.algo,
        })
    }
}

fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Drop for Blas {
    fn drop(&mut self) {
        // The process's last device usually: an error could not be told to anybody.
        // SAFETY: the handle is this value's own.
        unsafe { blas::destroy_handle(self.handle) }.ok();
    }
}
