//! Compiles `kernels/*.cu` into fatbins for the feature `cuda`; does nothing without it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these; PTX of the first for what is newer.
const TARGETS: [&str; 4] = ["80", "89", "90a", "100a"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let root =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = root.join("kernels");
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let nvcc = nvcc(&root);
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&kernels)
        .expect("the folder `kernels`")
        .map(|entry| entry.expect("an entry of `kernels`").path())
        .filter(|path| path.extension().is_some_and(|it| it == "cu"))
        .collect();
    sources.sort();
    let mut table = String::from(
        "/// An embedded file, aligned as CUDA's driver reads it.\n#[repr(align(16))]\nstruct Fatbin<T: ?Sized>(T);\n\
         /// A source file's name, what it was compiled to, and the kernels in it.\n\
         type Compiled = (&'static str, &'static Fatbin<[u8]>, &'static [&'static str]);\n\
         const FATBINS: &[Compiled] = &[\n",
    );
    for source in &sources {
        let stem = source
            .file_stem()
            .expect("a `.cu` has a name")
            .to_string_lossy()
            .into_owned();
        let fatbin = out.join(format!("{stem}.fatbin"));
        compile(&nvcc, source, &fatbin);
        let text = std::fs::read_to_string(source).expect("a `.cu` is text");
        let names: Vec<&str> = kernel_names(&text).collect();
        table +=
            &format!("    (\"{stem}.cu\", &Fatbin(*include_bytes!({fatbin:?})), &{names:?}),\n");
    }
    table += "];\n";
    std::fs::write(out.join("fatbins.rs"), table).expect("writing to OUT_DIR");
}

/// The names behind `KERNEL(..) void`.
fn kernel_names(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let (_, rest) = line.strip_prefix("KERNEL(")?.split_once(") void ")?;
        Some(rest.split_once('(')?.0)
    })
}

/// That of CUDA_HOME, of scripts/cuda-toolchain.sh, or of PATH.
fn nvcc(root: &Path) -> PathBuf {
    let homes = [
        std::env::var_os("CUDA_HOME").map(PathBuf::from),
        Some(root.join(".cache/cuda/nvidia/cu13")),
    ];
    let found = homes
        .into_iter()
        .flatten()
        .map(|home| home.join("bin/nvcc"))
        .find(|it| it.exists());
    found.unwrap_or_else(|| PathBuf::from("nvcc"))
}

fn compile(nvcc: &Path, source: &Path, fatbin: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "--threads", "0"]);
    for target in TARGETS {
        command
            .arg("-gencode")
            .arg(format!("arch=compute_{target},code=sm_{target}"));
    }
    let first = TARGETS[0];
    command
        .arg("-gencode")
        .arg(format!("arch=compute_{first},code=compute_{first}"));
    command.arg(source).arg("-o").arg(fatbin);
    let hint =
        "the feature `cuda` needs CUDA's compiler: run scripts/cuda-toolchain.sh, or set CUDA_HOME";
    match command.output() {
        Err(error) => panic!("cannot run `{}`: {error}\n{hint}", nvcc.display()),
        Ok(output) if !output.status.success() => panic!(
            "`{}` failed on {}:\n{}",
            nvcc.display(),
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        ),
        Ok(_) => {}
    }
}
