//! Writes the seeds of the fuzz targets: `fuzz_seeds DIRECTORY` makes a folder of them for each.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};
use mirror_tests::properties;

fn main() -> Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).context("say where the seeds go: fuzz_seeds DIRECTORY")?);
    for property in properties::ALL {
        let corpus = directory.join(property.name);
        fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        for (number, seed) in (property.seeds)().iter().enumerate() {
            let path = corpus.join(format!("seed-{number}"));
            fs::write(&path, seed).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}
