//! The data directory.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::audit::AuditKeys;
use crate::model::{Clock, Secret, SessionId};
use crate::policy::shipped;
use crate::tls::ca::Ca;
use crate::tls::trust;
use crate::vault::{EnvKek, FileKek, KekSource, Keyring, PassphraseKek};

/// The format of the data directory; another one is refused.
const FORMAT: &str = "1";

/// How the key-encryption key of a fresh data directory is kept.
#[derive(Debug)]
pub enum KekChoice {
    /// In a file of the directory, or in the environment if `SALLYPORT_KEK` is set there.
    Default,
    /// Nowhere: it is derived from a passphrase.
    Passphrase(Secret<String>),
}

/// The data directory, opened.
pub struct Home {
    dir: PathBuf,
    keyring: Arc<Keyring>,
    ca_pem: String,
    clock: Arc<dyn Clock>,
}

impl Home {
    /// Where the data directory is: `SALLYPORT_DATA_DIR`, else `$XDG_DATA_HOME/sallyport`, else
    /// `~/.local/share/sallyport`.
    ///
    /// # Errors
    /// None of the variables is set.
    pub fn default_dir() -> anyhow::Result<PathBuf> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("SALLYPORT_DATA_DIR")
            .or_else(|| var("XDG_DATA_HOME").map(|d| d.join("sallyport")))
            .or_else(|| var("HOME").map(|d| d.join(".local/share/sallyport")))
            .context("no data directory: give --data-dir, or set SALLYPORT_DATA_DIR or HOME")
    }

    /// Whether there is a data directory: it exists and isn't empty.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Opens the data directory; makes it first if there is none.
    ///
    /// # Errors
    /// It can't be made or read, others may read it, it has another format, or the KEK is not its own.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        if !Self::exists(dir) {
            Self::create(dir, &*clock, KekChoice::Default)?;
        }
        let format = dir.join("format");
        // Before the mode: nobody should be told to close a directory that isn't ours.
        if !format.exists() {
            bail!("{} isn't empty and is no data directory of sallyport; give another --data-dir", dir.display());
        }
        private(dir, 0o700)?;
        let format = read(&format)?;
        if format.trim() != FORMAT {
            let (place, found) = (dir.display(), format.trim());
            bail!("{place} has format {found:?}, and this sallyport reads {FORMAT:?}. Use the version that made it");
        }
        for file in ["canary", "ca.key"] {
            private(&dir.join(file), 0o600)?;
        }
        let keyring = Keyring::load(&*kek_source(dir)?)?;
        keyring.check(&fs::read(dir.join("canary")).context("reading the canary")?)?;
        let ca_pem = read(&dir.join("ca.pem"))?;
        Ok(Self { dir: dir.to_owned(), keyring: Arc::new(keyring), ca_pem, clock })
    }

    /// Makes the directory beside its place and moves it there whole, so that a crash leaves none
    /// half made.
    ///
    /// # Errors
    /// The directory can't be written, is there already, or the random source failed.
    pub fn create(dir: &Path, clock: &dyn Clock, kek: KekChoice) -> anyhow::Result<()> {
        make(dir, clock, kek).with_context(|| format!("making the data directory {}", dir.display()))
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key-encryption key and what is derived from it.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The CA certificate that agents have to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where the audit chains are.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Where the policies are.
    #[must_use]
    pub fn policy_dir(&self) -> PathBuf {
        self.dir.join("policies")
    }

    /// Where services of the user's own are described.
    #[must_use]
    pub fn provider_dir(&self) -> PathBuf {
        self.dir.join("providers")
    }

    /// The socket on which a running node answers its own user.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// The keys of the audit.
    #[must_use]
    pub fn audit_keys(&self) -> AuditKeys {
        AuditKeys { mac: self.keyring.subkey("audit-mac"), sign: self.keyring.subkey("audit-sign") }
    }

    /// The CA, with its key opened.
    ///
    /// # Errors
    /// The key doesn't open, or doesn't belong to the certificate.
    pub fn ca(&self) -> anyhow::Result<Ca> {
        let sealed = fs::read(self.dir.join("ca.key")).context("reading ca.key")?;
        let key = self.keyring.open_blob("ca-key", &sealed);
        let key = key.context("ca.key doesn't open: it was changed, or belongs to another data directory")?;
        let key = Secret::new(String::from_utf8(key.to_vec()).context("ca.key isn't text")?);
        Ok(Ca::open(&self.ca_pem, &key)?)
    }

    /// Writes a file of mode 0600 whole: beside its place first, then moved there.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let fresh = self.dir.join(format!(".{name}.{}", SessionId::generate()));
        let write = || -> std::io::Result<()> {
            put(&fresh, bytes)?;
            fs::rename(&fresh, self.dir.join(name))
        };
        write().with_context(|| format!("writing {name} in {}", self.dir.display()))
    }
}

fn private(path: &Path, wanted: u32) -> anyhow::Result<()> {
    let mode = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!("{path} has mode {mode:o}, so others may look into it. Run: chmod {wanted:o} {path}");
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The key-encryption key's source: `SALLYPORT_KEK` (hex or base64), `SALLYPORT_KEK_FILE`, a
/// passphrase where the directory was made with one (`SALLYPORT_PASSPHRASE`, else asked for), or
/// the directory's own file.
fn kek_source(dir: &Path) -> anyhow::Result<Box<dyn KekSource>> {
    if let Ok(value) = std::env::var("SALLYPORT_KEK") {
        return Ok(Box::new(EnvKek { name: "SALLYPORT_KEK", value: Secret::new(value) }));
    }
    if let Some(path) = std::env::var_os("SALLYPORT_KEK_FILE") {
        return Ok(Box::new(FileKek(path.into())));
    }
    let salt = dir.join("kek.salt");
    if salt.exists() {
        let salt = fs::read(&salt).context("reading kek.salt")?;
        let salt =
            salt.try_into().map_err(|_| anyhow::anyhow!("kek.salt isn't 16 bytes; restore it from the backup"))?;
        let passphrase = match std::env::var("SALLYPORT_PASSPHRASE") {
            Ok(passphrase) => passphrase,
            Err(_) => ask_passphrase("Passphrase of the data directory: ")?,
        };
        return Ok(Box::new(PassphraseKek { passphrase: Secret::new(passphrase), salt }));
    }
    Ok(Box::new(FileKek(dir.join("kek"))))
}

/// Asks for the passphrase on the terminal.
///
/// # Errors
/// There is no terminal. The system's reason isn't told: it names a device that nobody chose.
pub fn ask_passphrase(prompt: &str) -> anyhow::Result<String> {
    rpassword::prompt_password(prompt).map_err(|_| {
        anyhow::anyhow!("the passphrase can't be asked for without a terminal: put it into SALLYPORT_PASSPHRASE")
    })
}

fn make(dir: &Path, clock: &dyn Clock, kek: KekChoice) -> anyhow::Result<()> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let fresh = parent.join(format!(".sallyport-{}", SessionId::generate()));
    let folder = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
    let write = |name: &str, bytes: &[u8]| put(&fresh.join(name), bytes);
    folder(&fresh)?;
    let fill = || -> anyhow::Result<()> {
        let source: Box<dyn KekSource> = match kek {
            KekChoice::Passphrase(passphrase) => {
                let mut salt = [0u8; 16];
                getrandom::fill(&mut salt).map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
                write("kek.salt", &salt)?;
                Box::new(PassphraseKek { passphrase, salt })
            }
            KekChoice::Default => {
                let elsewhere = ["SALLYPORT_KEK", "SALLYPORT_KEK_FILE"].iter().any(|v| std::env::var_os(v).is_some());
                if !elsewhere {
                    FileKek(fresh.join("kek")).create()?;
                }
                kek_source(&fresh)?
            }
        };
        let keyring = Keyring::load(&*source)?;
        let made = Ca::create(clock)?;
        write("format", FORMAT.as_bytes())?;
        write("canary", &keyring.canary()?)?;
        write("ca.pem", made.ca.pem().as_bytes())?;
        write("ca-bundle.pem", trust::bundle_pem(None, made.ca.pem())?.as_bytes())?;
        let sealed = keyring.seal_blob("ca-key", made.key_pem.expose().as_bytes()).context("sealing the CA's key")?;
        write("ca.key", &sealed)?;
        folder(&fresh.join("audit"))?;
        folder(&fresh.join("policies"))?;
        for (name, text) in shipped() {
            write(&format!("policies/{name}"), text.as_bytes())?;
        }
        // An empty directory may be in the place already; a filled one makes this fail.
        fs::rename(&fresh, dir)?;
        Ok(())
    };
    fill().inspect_err(|_| {
        let _ = fs::remove_dir_all(&fresh);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SystemClock;

    #[test]
    fn fresh_directory_is_private_and_opens_again_only_with_its_own_key() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let dir = scratch.path().join("data");
        let home = Home::open(&dir, Arc::new(SystemClock)).expect("a fresh directory");
        for entry in fs::read_dir(&dir).expect("readable") {
            let entry = entry.expect("readable");
            let mode = entry.metadata().expect("readable").mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
        }
        assert_eq!(Home::open(&dir, Arc::new(SystemClock)).expect("again").ca_pem(), home.ca_pem());

        let other = scratch.path().join("other");
        Home::open(&other, Arc::new(SystemClock)).expect("another directory");
        let before = fs::read(dir.join("canary")).expect("readable");
        fs::copy(other.join("kek"), dir.join("kek")).expect("copied");
        let why = Home::open(&dir, Arc::new(SystemClock)).err().expect("refused").to_string();
        assert!(why.contains("not the one that this data directory was sealed with"), "{why}");
        assert_eq!(fs::read(dir.join("canary")).expect("readable"), before);
    }

    #[test]
    fn directory_of_another_format_or_kind_or_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let open = |dir: &Path| Home::open(dir, Arc::new(SystemClock)).err().map(|why| format!("{why:#}"));
        let dir = scratch.path().join("data");
        assert_eq!(open(&dir), None);
        fs::write(dir.join("format"), "2").expect("written");
        assert!(open(&dir).expect("refused").contains("format \"2\""));
        fs::write(dir.join("format"), "1").expect("written");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).expect("changed");
        assert!(open(&dir).expect("refused").contains("chmod 700"));

        let strange = scratch.path().join("strange");
        fs::create_dir(&strange).expect("made");
        fs::write(strange.join("letter.txt"), "dear").expect("written");
        fs::set_permissions(&strange, fs::Permissions::from_mode(0o755)).expect("changed");
        assert!(open(&strange).expect("refused").contains("no data directory of sallyport"));
        assert_eq!(fs::read_dir(&strange).expect("readable").count(), 1, "nothing was added");
    }

    #[test]
    fn passphrase_opens_what_was_sealed_with_it_and_another_does_not() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let dir = scratch.path().join("data");
        let phrase = |text: &str| KekChoice::Passphrase(Secret::new(text.to_owned()));
        Home::create(&dir, &SystemClock, phrase("correct horse")).expect("made");
        assert!(!dir.join("kek").exists(), "the key-encryption key is nowhere");
        let salt: [u8; 16] = fs::read(dir.join("kek.salt")).expect("readable").try_into().expect("16 bytes");
        let canary = fs::read(dir.join("canary")).expect("readable");
        let opens = |text: &str| {
            let source = PassphraseKek { passphrase: Secret::new(text.to_owned()), salt };
            Keyring::load(&source).expect("derived").check(&canary).is_ok()
        };
        assert!(opens("correct horse"));
        assert!(!opens("wrong horse"));
    }
}
