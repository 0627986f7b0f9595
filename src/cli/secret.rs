//! Reading a secret: never an argument by necessity.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// Where a secret comes from; without any of these it is asked for, or read from standard input.
#[derive(clap::Args)]
pub struct Value {
    /// Read the secret from this file; `-` is standard input. Repeat it for a secret in several files, as a
    /// client certificate and its private key are
    #[arg(long, value_name = "FILE")]
    value_file: Vec<PathBuf>,
    /// The secret itself: other users see it in the process list, and the shell keeps it
    #[arg(long, value_name = "SECRET", conflicts_with = "value_file")]
    value: Option<String>,
}

/// Shows nothing of a secret that was given as an argument.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Value").field("value_file", &self.value_file).finish_non_exhaustive()
    }
}

/// The longest secret that is read, in bytes.
const MAX: u64 = 1024 * 1024;

impl Value {
    /// From this file; `-` is standard input.
    pub fn of_file(file: PathBuf) -> Self {
        Self { value_file: vec![file], value: None }
    }

    /// Reads the secret. A line break at its end is taken off.
    pub fn read(self, prompt: &str) -> anyhow::Result<Zeroizing<String>> {
        let text = match self.value {
            Some(value) => {
                eprintln!("sallyport: --value shows the secret in the process list and in the shell's history");
                Zeroizing::new(value)
            }
            None if !self.value_file.is_empty() => {
                let texts: Vec<_> = self.value_file.iter().map(|path| of_file(path)).collect::<Result<_, _>>()?;
                let mut all = Zeroizing::new(String::with_capacity(texts.iter().map(|text| text.len() + 1).sum()));
                for text in texts {
                    let apart = if all.is_empty() || all.ends_with('\n') { "" } else { "\n" };
                    all.push_str(apart);
                    all.push_str(&text);
                }
                all
            }
            None if std::io::stdin().is_terminal() => {
                Zeroizing::new(rpassword::prompt_password(format!("{prompt}: ")).context("reading the secret")?)
            }
            None => whole(std::io::stdin()).context("reading standard input")?,
        };
        let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        if text.is_empty() {
            bail!("the secret is empty: type it at the prompt, pipe it to standard input, or give --value-file");
        }
        Ok(text)
    }
}

fn of_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    if path.as_os_str() == "-" {
        return whole(std::io::stdin()).context("reading standard input");
    }
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    whole(file).with_context(|| format!("reading {}", path.display()))
}

fn whole(from: impl std::io::Read) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX + 1).read_to_string(&mut text).context("it isn't text")?;
    if text.len() as u64 > MAX {
        bail!("it is longer than 1 MiB");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        value: Value,
    }

    #[test]
    fn secret_given_as_an_argument_is_not_shown() {
        let command = Command::parse_from(["keys", "--value", "sk-in-an-argument"]);
        assert!(!format!("{command:?}").contains("sk-in"), "{command:?}");
    }
}
