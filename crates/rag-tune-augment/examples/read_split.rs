//! How fast a data file is checked and read, and in how much memory.
//!
//! usage: read_split FILE [COLUMN...]          opens FILE as a split, then reads all rows
//!        read_split --make MIB FILE           writes question-answer rows as .jsonl, .json or .csv
//!
//! Linux only: peak memory is VmHWM of /proc/self/status, CPU seconds are those of all threads (/proc/self/stat),
//! which say more than the clock where other programs run.
#![allow(clippy::print_stdout, reason = "an example prints what it measured")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use rag_tune_augment::dataset::{BadRows, Reading, Split};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--make", mib, file] => make(mib.parse()?, Path::new(file)),
        [file, ref columns @ ..] => measure(Path::new(file), columns),
        [] => Err("name a file".into()),
    }
}

fn measure(path: &Path, columns: &[&str]) -> Result<(), Box<dyn Error>> {
    let reading = Reading {
        columns: &BTreeMap::new(),
        required: columns,
        given: &[],
        filled: columns,
        id: None,
        bad_rows: BadRows::Error,
    };
    let mib = fs::metadata(path)?.len() as f64 / (1 << 20) as f64;
    let report = |what: &str, (started, cpu): (Instant, f64)| -> Result<(), Box<dyn Error>> {
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let (rate, rate_of_a_core, peak) = (mib / seconds, mib / cpu, peak_mib()?);
        println!(
            "{what} {seconds:7.2} s {rate:5.0} MiB/s; {cpu:6.2} CPU s {rate_of_a_core:5.0} MiB/s; peak {peak} MiB"
        );
        Ok(())
    };
    let started = (Instant::now(), cpu_seconds()?);
    let split = Split::open(&[path.into()], &reading)?;
    report("open", started)?;
    let started = (Instant::now(), cpu_seconds()?);
    let mut fields = 0;
    for start in (0..split.len()).step_by(4096) {
        let rows = split.rows(start..split.len().min(start + 4096))?;
        fields += rows.iter().map(|row| row.fields.len()).sum::<usize>();
    }
    report("read", started)?;
    println!("{} rows, {fields} fields, {mib:.0} MiB", split.len());
    Ok(())
}

/// Of all threads, in the system's and the program's own code.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    const TICKS_PER_S: f64 = 100.0; // USER_HZ of every common Linux
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the program's name, which may have spaces: `utime` and `stime` are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| {
        fields
            .get(field - 3)
            .ok_or("no CPU time")?
            .parse::<f64>()
            .map_err(Box::<dyn Error>::from)
    };
    Ok((ticks(14)? + ticks(15)?) / TICKS_PER_S)
}

fn peak_mib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .ok_or("no VmHWM")?;
    Ok(kib.parse::<u64>()? / 1024)
}

/// Rows of about 420 bytes, no two of which are equal.
fn make(mib: u64, path: &Path) -> Result<(), Box<dyn Error>> {
    let format = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let mut file = BufWriter::new(File::create(path)?);
    let (mut written, mut index) = (0, 0_u64);
    file.write_all(match format {
        "json" => b"[\n",
        "csv" => b"db_id,question,context,answer\n",
        _ => b"",
    })?;
    while written < mib << 20 {
        let (table, column) = (index % 977, index % 13);
        let context =
            format!("CREATE TABLE t{table} (id INTEGER, \"c{column}\" VARCHAR)").repeat(4);
        let question =
            format!("How many \"c{column}\" of number {index} are there,\n and in which t{table}?");
        let answer = format!("SELECT count(*), c{column} FROM t{table} WHERE id = {index}");
        let row = match format {
            "csv" => {
                let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
                format!(
                    "db{table},{},{},{}\n",
                    quoted(&question),
                    quoted(&context),
                    quoted(&answer)
                )
            }
            _ => {
                let row = json!({"db_id": format!("db{table}"), "question": question, "context": context, "answer": answer});
                let comma = if format == "json" && index > 0 {
                    ",\n"
                } else {
                    ""
                };
                let end = if format == "json" { "" } else { "\n" };
                format!("{comma}{row}{end}")
            }
        };
        file.write_all(row.as_bytes())?;
        written += row.len() as u64;
        index += 1;
    }
    if format == "json" {
        file.write_all(b"\n]\n")?;
    }
    Ok(file.flush()?)
}
