//! The services that are known: the bundled ones and a user's own, loaded, kept, swapped whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Provider, Written};
use crate::model::Name;

/// The bundled files.
const BUNDLED: &[(&str, &str)] = &[
    ("llm.yaml", include_str!("bundled/llm.yaml")),
    ("code.yaml", include_str!("bundled/code.yaml")),
    ("work.yaml", include_str!("bundled/work.yaml")),
    ("cloud.yaml", include_str!("bundled/cloud.yaml")),
    ("search.yaml", include_str!("bundled/search.yaml")),
];

/// The longest file of a user's, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// The most services of a user's own.
const MAX_OWN: usize = 1000;

/// A mistake in a file of services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

impl Problem {
    fn new(file: &Path, what: impl ToString) -> Self {
        Self { file: file.display().to_string(), what: what.to_string() }
    }
}

/// The services that are known.
pub struct Library {
    dir: PathBuf,
    current: ArcSwap<Vec<Provider>>,
}

impl Library {
    /// The bundled services, and those in the `.yaml` files of the directory, if there is one.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files.
    pub fn load(dir: &Path) -> Result<Self, Vec<Problem>> {
        Ok(Self { dir: dir.to_owned(), current: ArcSwap::from_pointee(read(dir)?) })
    }

    /// The bundled services alone.
    #[must_use]
    pub fn bundled(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), current: ArcSwap::from_pointee(Merged::bundled().all) }
    }

    /// Those that are known at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Vec<Provider>> {
        self.current.load_full()
    }

    /// Reads the directory again. On an error the old services stay.
    ///
    /// # Errors
    /// Everything that is wrong with the new files.
    pub fn reload(&self) -> Result<(), Vec<Problem>> {
        self.current.store(Arc::new(read(&self.dir)?));
        Ok(())
    }
}

fn read(dir: &Path) -> Result<Vec<Provider>, Vec<Problem>> {
    let mut merged = Merged::bundled();
    let files = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(merged.all),
        Err(why) => return Err(vec![Problem::new(dir, format!("the directory can't be read: {why}"))]),
    };
    let mut files: Vec<_> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    files.sort();
    for file in files {
        let text = std::fs::metadata(&file).and_then(|meta| match meta.len() {
            0..=MAX_BYTES => std::fs::read_to_string(&file),
            _ => Err(std::io::Error::other("it is longer than 1 MiB")),
        });
        match text {
            Ok(text) => merged.add(&file, &text, true),
            Err(why) => merged.problems.push(Problem::new(&file, why)),
        }
    }
    if merged.problems.is_empty() { Ok(merged.all) } else { Err(merged.problems) }
}

/// Services from several files, and what is wrong with them.
#[derive(Default)]
struct Merged {
    all: Vec<Provider>,
    /// The place of each name, and who reads which variable.
    places: HashMap<Name, usize>,
    variables: HashMap<String, Name>,
    problems: Vec<Problem>,
}

impl Merged {
    fn bundled() -> Self {
        let mut merged = Self::default();
        for (file, text) in BUNDLED {
            merged.add(Path::new(file), text, false);
        }
        merged
    }

    fn add(&mut self, file: &Path, text: &str, own: bool) {
        let written: Vec<Written> = match serde_yaml::from_str::<Option<_>>(text) {
            Ok(written) => written.unwrap_or_default(),
            Err(why) => return self.problems.push(Problem::new(file, why)),
        };
        for written in written {
            let name = written.name.clone();
            let taken = Provider::read(written, own).and_then(|(provider, replaces)| self.take(provider, replaces));
            if let Err(what) = taken {
                self.problems.push(Problem::new(file, format!("{name}: {what}")));
            }
        }
    }

    fn take(&mut self, provider: Provider, replaces: bool) -> Result<(), String> {
        let name = &provider.name;
        let before = self.places.get(name).copied().and_then(|at| Some((at, self.all.get(at)?)));
        match before {
            Some((_, before)) if before.own == provider.own => return Err("there are two of this name".to_owned()),
            Some(_) if !replaces => {
                return Err("a bundled service has this name: give yours another, or say `replaces: true`".to_owned());
            }
            None if replaces => return Err("there is no bundled service of this name to replace".to_owned()),
            _ => {}
        }
        let other =
            provider.env.iter().find_map(|env| self.variables.get(env).filter(|of| *of != name).map(|of| (env, of)));
        if let Some((variable, of)) = other {
            return Err(format!("the variable {variable} belongs to {of}"));
        }
        if provider.own && self.all.iter().filter(|p| p.own).count() >= MAX_OWN {
            return Err(format!("there are more than {MAX_OWN} services of your own"));
        }
        if let Some((_, before)) = before {
            before.env.iter().for_each(|variable| _ = self.variables.remove(variable));
        }
        self.variables.extend(provider.env.iter().map(|variable| (variable.clone(), name.clone())));
        match before.map(|(at, _)| at) {
            Some(at) => self.all[at] = provider,
            None => {
                self.places.insert(name.clone(), self.all.len());
                self.all.push(provider);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BaseUrl;
    use crate::providers::Verdict;

    fn own(text: &str) -> (Vec<Provider>, Vec<String>) {
        let mut merged = Merged::bundled();
        merged.add(Path::new("own.yaml"), text, true);
        (merged.all, merged.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn example_of_a_file_can_be_read_also_with_the_fields_that_are_commented_out() {
        for text in [crate::providers::EXAMPLE.to_owned(), crate::providers::EXAMPLE.replace("\n  # ", "\n  ")] {
            let (all, problems) = own(&text);
            assert_eq!(problems, [""; 0]);
            assert!(all.iter().any(|p| p.name.as_str() == "example" && p.env == ["EXAMPLE_API_KEY"]));
        }
    }

    #[test]
    fn bundled_services_are_whole_and_many() {
        let merged = Merged::bundled();
        assert_eq!(merged.problems, []);
        assert!(merged.all.len() >= 65, "{}", merged.all.len());
        for provider in &merged.all {
            let own = provider.example.as_ref().map(|example| BaseUrl::parse(example).expect("an address"));
            let needs_key = !provider.env.is_empty();
            assert_eq!(provider.destination(own.as_ref()).is_ok(), needs_key, "{}", provider.name);
            assert!(provider.base.is_some() || provider.example.is_some() || provider.name.as_str() == "algolia");
        }
    }

    #[test]
    fn one_of_the_users_own_takes_a_few_lines() {
        let (all, problems) =
            own("- name: intranet\n  hosts: [search.example.com]\n  slots: [bearer]\n  env: [INTRANET_KEY]\n");
        assert_eq!(problems, [""; 0]);
        let last = all.last().expect("one");
        assert_eq!((last.name.as_str(), last.title.as_str(), last.own), ("intranet", "intranet", true));
    }

    #[test]
    fn every_mistake_is_told_with_its_file_and_service() {
        let (_, problems) = own("\
            - { name: a, hosts: [a.test], env: [A_KEY] }\n\
            - { name: b, hosts: [b.test], slots: [bearer], env: [OPENAI_API_KEY] }\n\
            - { name: openai, hosts: [c.test], slots: [bearer], env: [C_KEY] }\n\
            - { name: d, hosts: [d.test], slots: [bearer], env: [\"D KEY\"] }\n\
            - { name: e, hosts: [e.test], slots: [bearer], env: [E_KEY], base: \"https://elsewhere.test\" }\n\
            - { name: f, hosts: [f.test], slots: [bearer], env: [F_KEY], replaces: true }\n\
            - { name: g, slots: [bearer], env: [G_KEY] }\n\
            - { name: h, hosts: [h.test], slots: [bearer], env: [H_KEY], check: { request: \"GET v1\" } }\n");
        let expected = [
            "own.yaml: a: slots: say",
            "own.yaml: b: the variable OPENAI_API_KEY belongs to openai",
            "own.yaml: openai: a bundled service has this name",
            "own.yaml: d: \"D KEY\" is no name of a variable",
            "own.yaml: e: base: its host is not among the hosts",
            "own.yaml: f: there is no bundled service of this name to replace",
            "own.yaml: g: hosts: say where its key may go",
            "own.yaml: h: check: the request's path begins with /",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
        let (_, problems) = own("- { name: a, hots: [a.test] }\n");
        assert!(problems[0].contains("unknown field `hots`") && problems[0].contains("line 1"), "{problems:?}");
    }

    #[test]
    fn bundled_one_is_replaced_only_by_one_that_says_so() {
        let (all, problems) =
            own("- { name: openai, replaces: true, hosts: [a.test], slots: [bearer], env: [OPENAI_API_KEY] }\n");
        assert_eq!(problems, [""; 0]);
        let openai: Vec<_> = all.iter().filter(|p| p.name.as_str() == "openai").collect();
        assert_eq!(openai.len(), 1);
        assert_eq!(openai[0].hosts[0].to_string(), "a.test");
    }

    #[test]
    fn address_of_ones_own_takes_the_place_of_everybodys_unless_it_is_the_same() {
        let merged = Merged::bundled();
        let find = |name: &str| merged.all.iter().find(|p| p.name.as_str() == name).expect(name);
        let hosts = |name: &str, address: &str| {
            let own = BaseUrl::parse_bare(address).expect(address);
            find(name)
                .destination(Some(&own))
                .map(|d| d.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(hosts("gitlab", "git.example.com:8443").expect("one"), "git.example.com:8443");
        assert_eq!(hosts("gitlab", "https://gitlab.com/api/v4").expect("one"), "gitlab.com");
        assert!(hosts("github", "https://api.github.com").expect("one").contains("codeload.github.com"));
        assert_eq!(hosts("azure-openai", "https://me.openai.azure.com/").expect("one"), "me.openai.azure.com");
        assert_eq!(hosts("qdrant", "http://localhost:6333").expect("one"), "localhost:6333");
        let why = hosts("qdrant", "http://10.0.0.1:6333").expect_err("clear text");
        assert!(why.to_string().contains("https://"), "{why}");
        let why = find("supabase").destination(None).expect_err("no address").to_string();
        assert!(why.contains("https://PROJECT.supabase.co") && why.contains("SUPABASE_URL"), "{why}");
    }

    #[test]
    fn replies_to_the_check_are_told_apart() {
        let merged = Merged::bundled();
        let verdict = |name: &str, status, body: &str| {
            let provider = merged.all.iter().find(|p| p.name.as_str() == name).expect(name);
            provider.check.as_ref().expect("a check").verdict(status, body.as_bytes())
        };
        assert_eq!(verdict("openai", 200, "{}"), Verdict::Valid);
        assert_eq!(verdict("openai", 401, "{}"), Verdict::Refused);
        assert_eq!(verdict("openai", 503, "{}"), Verdict::Unclear);
        assert_eq!(verdict("slack", 200, "{\"ok\":false}"), Verdict::Refused);
        assert_eq!(verdict("slack", 200, "{\"ok\":true}"), Verdict::Valid);
        assert_eq!(verdict("resend", 401, "{\"name\":\"restricted_api_key\"}"), Verdict::Valid);
        assert_eq!(verdict("digitalocean", 403, "{}"), Verdict::Unclear);
    }
}
