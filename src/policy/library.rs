//! The policies of a directory: loaded, kept, swapped whole.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::{PolicySet, Problem};

/// The policies that sallyport ships: file names and texts.
#[must_use]
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    &[
        ("development.yaml", include_str!("../../policies/development.yaml")),
        ("stripe-payments.yaml", include_str!("../../policies/stripe-payments.yaml")),
        ("github-read.yaml", include_str!("../../policies/github-read.yaml")),
    ]
}

/// The policies in force.
pub struct Library {
    dir: PathBuf,
    current: ArcSwap<PolicySet>,
}

impl Library {
    /// Loads every `.yaml` file of the directory.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn load(dir: &Path) -> Result<Self, Vec<Problem>> {
        Ok(Self { dir: dir.to_owned(), current: ArcSwap::from_pointee(read(dir)?) })
    }

    /// No policies at all: nothing is allowed.
    #[must_use]
    pub fn empty(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), current: ArcSwap::from_pointee(PolicySet::default()) }
    }

    /// The set in force.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }

    /// Whether this is the set in force.
    #[must_use]
    pub fn is_in_force(&self, set: &Weak<PolicySet>) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.current.load()), set.as_ptr())
    }

    /// Reads the directory again. On an error the old set stays in force.
    ///
    /// # Errors
    /// Everything that is wrong with the new files.
    pub fn reload(&self) -> Result<(), Vec<Problem>> {
        self.current.store(Arc::new(read(&self.dir)?));
        Ok(())
    }
}

fn read(dir: &Path) -> Result<PolicySet, Vec<Problem>> {
    let problem = |what: String| vec![Problem { file: dir.display().to_string(), what }];
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| problem(format!("the directory can't be read: {e}")))? {
        let path = entry.map_err(|e| problem(e.to_string()))?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            let length = std::fs::metadata(&path).map_err(|e| problem(format!("{}: {e}", path.display())))?.len();
            if length > super::document::MAX_BYTES as u64 {
                return Err(problem(format!("{} is longer than a policy may be", path.display())));
            }
            let bytes = std::fs::read(&path).map_err(|e| problem(format!("{}: {e}", path.display())))?;
            files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
        }
    }
    files.sort();
    PolicySet::compile(&files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_policies_compile_and_their_cases_hold() {
        let files: Vec<_> = shipped().iter().map(|(f, t)| ((*f).to_owned(), t.as_bytes().to_vec())).collect();
        if let Err(problems) = PolicySet::compile(&files) {
            panic!("{problems:?}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_and_a_failed_case_is_one() {
        let bad = b"version: 1\nname: x\nrules:\n  - { name: a, allow: { paths: [\"v1\"] } }\n  - { name: b, allow: { methods: [get] } }\n";
        let problems = PolicySet::compile(&[("x.yaml".into(), bad.to_vec())]).err().unwrap_or_default();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let failing = b"version: 1\nname: x\nrules: []\ncases:\n  - { request: \"GET https://a.test/\", key: k, expect: allow }\n";
        assert!(PolicySet::compile(&[("x.yaml".into(), failing.to_vec())]).is_err());
        let unknown = b"version: 1\nname: x\nwhen: { hours: \"Mon\" }\n";
        assert!(PolicySet::compile(&[("x.yaml".into(), unknown.to_vec())]).is_err());
    }
}
