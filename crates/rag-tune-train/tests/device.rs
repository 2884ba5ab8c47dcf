//! A run on a device learns what the same run learns on the CPU.

mod support;

use rag_tune_kernels::cuda::Device;
use rag_tune_train::trainer::Start;
use support::{TinyRun, adapter_bytes};
use tempfile::tempdir;

/// Losses of a run that begin together may part: the bound is that of the first steps, in which bf16 has not been learnt from yet.
#[test]
fn a_run_on_a_device_has_the_losses_of_the_cpu() {
    let folder = tempdir().unwrap();
    let cpu = TinyRun::new(8)
        .run(folder.path(), Start::Afresh)
        .ok()
        .records;
    let runs = [0, 0x5eed].map(|seed| {
        let device = Device::emulated(seed).unwrap();
        let mut run = TinyRun::new(8);
        run.model = run.model.into_device(&device).unwrap();
        let folder = tempdir().unwrap();
        let records = run.run(folder.path(), Start::Afresh).ok().records;
        for (there, here) in records.iter().zip(&cpu) {
            let (step, got, expected) = (here.step, there.loss, here.loss);
            assert!(
                (got - expected).abs() < 0.01 * expected,
                "step {step}: {got}, {expected}"
            );
        }
        assert!(records[7].loss < records[0].loss, "it learns");
        adapter_bytes(folder.path())
    });
    assert!(runs[0] == runs[1], "whatever the order of threads");
}

/// A run goes on from a checkpoint to the same bytes.
#[test]
fn a_run_on_a_device_resumes_exactly() {
    let device = Device::emulated(0).unwrap();
    let run = || {
        let mut run = TinyRun::new(7);
        run.model = run.model.into_device(&device).unwrap();
        run
    };
    let (whole, cut) = (tempdir().unwrap(), tempdir().unwrap());
    run().run(whole.path(), Start::Afresh).ok();
    run().killed_after(6, cut.path(), Start::Afresh);
    run().run(cut.path(), Start::Resume).ok();
    assert!(adapter_bytes(whole.path()) == adapter_bytes(cut.path()));
}
