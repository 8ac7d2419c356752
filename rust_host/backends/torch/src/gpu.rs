//! What libtorch says of a GPU, as a sentence: its own texts end in advice for those who write kernels.

use rust_host_engine::Error;

/// After these the driver refuses everything that this process asks for.
const LOST: [&str; 9] = [
    "illegal memory access",
    "unspecified launch failure",
    "uncorrectable ECC error",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "launch timed out",
    "hardware stack error",
    "unknown error",
];

const ANEW: &str = "start the process anew; `nvidia-smi` says how the GPU is";

/// The error, if the text is of a GPU.
pub(crate) fn explain(text: &str) -> Option<Error> {
    let memory = |what: &str| {
        Some(
            Error::unavailable(format!("the GPU has not enough memory{what}"))
                .hint("give a smaller batch, or end what else runs there: `nvidia-smi` shows it"),
        )
    };
    if let Some((_, rest)) = text.split_once("CUDA out of memory") {
        let between = |from: &str, to: &str| Some(rest.split_once(from)?.1.split_once(to)?.0);
        let asked = between("Tried to allocate ", ". ").map(|n| format!(": {n} were asked for"));
        let free = between("total capacity of ", " of which ").zip(between(" of which ", " is free"));
        let free = free.map(|(all, free)| format!(", {free} of {all} are free"));
        return memory(&asked.map_or(String::new(), |asked| asked + &free.unwrap_or_default()));
    }
    let reason = ["CUDA error: ", "cuDNN error: ", "CUDA driver error: "].iter().find_map(|begin| {
        let line = text.split_once(begin)?.1.lines().next()?;
        Some(line.trim().trim_end_matches('.'))
    })?;
    if reason.contains("out of memory") || reason.contains("ALLOC_FAILED") {
        return memory(&format!(": {reason}"));
    }
    if reason.contains("device-side assert") {
        let text = "the model failed on the GPU: an assertion of its code did not hold, often an index is out of range";
        return Some(Error::failed(text).hint(
            "on the processor the same call says more; the GPU refuses this process from now on, start it anew",
        ));
    }
    if reason.contains("no kernel image") {
        return Some(
            Error::unavailable(format!("this libtorch has no code for this GPU: {reason}"))
                .hint("take a libtorch that is built for it, or `--device cpu`"),
        );
    }
    if LOST.iter().any(|lost| reason.contains(lost)) {
        return Some(Error::unavailable(format!("the GPU is lost to this process: {reason}")).hint(ANEW));
    }
    Some(Error::failed(format!("the model failed on the GPU: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_host_engine::ErrorKind;

    #[test]
    fn what_a_gpu_says_is_a_sentence() {
        let advice = "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nDevice-side assertion tracking was not enabled by user.";
        let told = [
            (
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 100.50 MiB is free. Including non-PyTorch memory, this process has 1.00 GiB memory in use.",
                ErrorKind::Unavailable,
                "the GPU has not enough memory: 20.00 GiB were asked for, 100.50 MiB of 139.81 GiB are free",
            ),
            (
                "CUDA out of memory. Tried to allocate more than 1EB memory.",
                ErrorKind::Unavailable,
                "the GPU has not enough memory",
            ),
            (
                &format!("CUDA error: out of memory{advice}"),
                ErrorKind::Unavailable,
                "the GPU has not enough memory: out of memory",
            ),
            (
                "The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                ErrorKind::Unavailable,
                "the GPU has not enough memory: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            ),
            (
                &format!("RuntimeError: CUDA error: an illegal memory access was encountered{advice}"),
                ErrorKind::Unavailable,
                "the GPU is lost to this process: an illegal memory access was encountered",
            ),
            (
                &format!("CUDA error: no kernel image is available for execution on the device{advice}"),
                ErrorKind::Unavailable,
                "this libtorch has no code for this GPU: no kernel image is available for execution on the device",
            ),
            (
                &format!("CUDA error: device-side assert triggered{advice}"),
                ErrorKind::Failed,
                "the model failed on the GPU: an assertion of its code did not hold, often an index is out of range",
            ),
            (
                "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
                ErrorKind::Failed,
                "the model failed on the GPU: CUDNN_STATUS_EXECUTION_FAILED",
            ),
        ];
        for (text, kind, message) in told {
            let e = explain(text).unwrap();
            assert_eq!((e.kind, e.message.as_str()), (kind, message));
        }
        assert!(explain("mat1 and mat2 shapes cannot be multiplied (1x5 and 4x16)").is_none());
    }
}
