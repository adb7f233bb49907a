//! Takes a trace of a whole run, shows it, checks it. `make trace` does all of it.

use std::env;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use sluice_tests::failure::{Failure, Outcome};
use sluice_tests::trace::{Trace, casemate, check, run, text};

const USE: &str =
    "trace run <file> [<cpu>]          boot Linux, move its memory about, power off: a trace
trace check <file>               by Sluice's own checker
trace text <file> <output>       the compact rendering
trace casemate <file> <output>   the rendering for Casemate";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["run", file] => taken(file, "cortex-a72"),
        ["run", file, cpu] => taken(file, cpu),
        ["check", file] => checked(file),
        ["text", file, output] => rendered(file, output, false),
        ["casemate", file, output] => rendered(file, output, true),
        _ => Err(Failure::new(format!("use:\n{USE}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}

fn taken(file: &str, cpu: &str) -> Outcome {
    run::whole_life("trace", cpu, &env::current_dir()?.join(file))?;
    println!("{file}: {} bytes", std::fs::metadata(file)?.len());
    Ok(())
}

fn checked(file: &str) -> Outcome {
    let trace = Trace::read(Path::new(file))?;
    let report = check::check(&trace);
    for violation in &report.violations {
        println!("{violation}");
    }
    println!("{report}");
    if report.violations.is_empty() { Ok(()) } else { Err(Failure::new("the trace breaks rules")) }
}

fn rendered(file: &str, output: &str, for_casemate: bool) -> Outcome {
    let trace = Trace::read(Path::new(file))?;
    let mut out = BufWriter::new(File::create(output)?);
    if for_casemate {
        let rendered = casemate::render(&trace, &mut out)?;
        println!("{output}: {} transitions, {} bytes", rendered.transitions, rendered.bytes);
    } else {
        text::render(&trace, &mut out)?;
        println!("{output}: {} events", trace.events.len());
    }
    out.flush()?;
    Ok(())
}
