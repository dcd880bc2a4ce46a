//! The demo's place: its data directory, its ports, and the factory's file as it runs.
//!
//! What runs is `config/examples/demo.yaml`, byte for byte, except for what has no room where it is: a port that is taken, the data directory. A build
//! with the feature `lake` has one sink more.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

const FACTORY: &str = include_str!("../../../../config/examples/demo.yaml");
/// The data directory as the file names it.
const DATA: &str = "./millrace-demo";
/// Held while a demo runs; also the sign that a directory is a demo's.
const LOCK: &str = "demo.lock";

/// Where everything listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub kafka: SocketAddr,
    pub registry: SocketAddr,
    pub http: SocketAddr,
    pub mqtt: SocketAddr,
    pub opcua: SocketAddr,
    pub modbus: SocketAddr,
    pub s7: SocketAddr,
    pub erp: SocketAddr,
}

impl Addresses {
    /// As the file says, with what each is to a person.
    const fn declared() -> Self {
        const fn local(port: u16) -> SocketAddr {
            SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
        }
        Self {
            kafka: local(9092),
            registry: local(8081),
            http: local(8080),
            mqtt: local(1883),
            opcua: local(4840),
            modbus: local(5020),
            s7: local(1102),
            erp: local(8090),
        }
    }

    fn each(&mut self) -> [(&'static str, &mut SocketAddr); 8] {
        [
            ("Kafka", &mut self.kafka),
            ("the schema registry", &mut self.registry),
            ("the console", &mut self.http),
            ("the MQTT simulator", &mut self.mqtt),
            ("the OPC UA simulator", &mut self.opcua),
            ("the Modbus simulator", &mut self.modbus),
            ("the S7 simulator", &mut self.s7),
            ("the simulated ERP", &mut self.erp),
        ]
    }
}

#[derive(Debug)]
pub struct Place {
    pub data: PathBuf,
    /// The factory's file as it runs.
    pub file: PathBuf,
    /// Where the program's own messages go.
    pub log: PathBuf,
    pub addresses: Addresses,
    /// `bootstrap.servers`.
    pub kafka: String,
    pub is_embedded: bool,
    /// What is not as the file says, for a person.
    pub notes: Vec<String>,
    /// The user chose the directory.
    is_named: bool,
    _lock: File,
}

impl Place {
    /// Makes the directory and writes the file. `kafka`: instead of the embedded broker.
    ///
    /// Errors: the directory is somebody else's, or another demo runs in it.
    pub fn prepare(data: Option<&Path>, kafka: Option<&str>) -> Result<Self> {
        let named = data.unwrap_or(Path::new(DATA));
        let lock = claim(named, data.is_some())?;
        let mut place = Self {
            data: named.to_owned(),
            file: named.join("demo.yaml"),
            log: named.join("millrace.log"),
            addresses: Addresses::declared(),
            kafka: kafka.unwrap_or_default().to_owned(),
            is_embedded: kafka.is_none(),
            notes: Vec::new(),
            is_named: data.is_some(),
            _lock: lock,
        };
        place.settle()?;
        Ok(place)
    }

    /// Looks for ports that are free now, and writes the file with them.
    pub fn settle(&mut self) -> Result<()> {
        self.notes.clear();
        self.addresses = Addresses::declared();
        let mut text = FACTORY.to_owned();
        if millrace_lake::HAS_TABLES {
            text = format!("{}\n{}", text.trim_end(), super::lake::SINK);
        }
        if !self.is_embedded {
            text = text.replace("brokers: embedded", &format!("brokers: {}", quoted(&self.kafka)));
        }
        for (what, address) in self.addresses.each() {
            let declared = *address;
            if !text.contains(&declared.to_string()) || (what == "Kafka" && !self.is_embedded) || TcpListener::bind(declared).is_ok() {
                continue;
            }
            let free = TcpListener::bind((declared.ip(), 0)).and_then(|listener| listener.local_addr());
            *address = free.context("there is no free port on 127.0.0.1")?;
            text = text.replace(&declared.to_string(), &address.to_string());
            self.notes.push(format!("{declared} is taken: {what} listens on {address}"));
        }
        if self.is_embedded {
            self.kafka = self.addresses.kafka.to_string();
        }
        if self.is_named {
            let whole = std::path::absolute(&self.data).unwrap_or_else(|_| self.data.clone());
            text = text.replace(&format!("\"{DATA}/"), &format!("\"{}/", escaped(&whole)));
            text = text.replace(DATA, &quoted(&whole.to_string_lossy()));
        }
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// A text in double quotes, as YAML reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"").replace(['{', '}'], "_")
}

/// Takes the directory over. The demo's own is made anew; one that the user names is kept.
fn claim(data: &Path, is_named: bool) -> Result<File> {
    let shown = data.display();
    let lock = data.join(LOCK);
    let is_empty = match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("cannot use {shown} for the demo's data")),
    };
    if !is_empty && !lock.exists() {
        bail!("{shown} holds something that is not a demo's data; name another folder with --data");
    }
    fs::create_dir_all(data).with_context(|| format!("cannot make {shown}; name another folder with --data"))?;
    let held = File::options().create(true).append(true).open(&lock).with_context(|| format!("cannot write into {shown}"))?;
    match held.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another demo runs in {shown}; stop it, or name another folder with --data"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", lock.display())),
    }
    if !is_named {
        for entry in fs::read_dir(data)? {
            let path = entry?.path();
            if path != lock {
                let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                gone.with_context(|| format!("cannot remove {} of an earlier demo", path.display()))?;
            }
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_and_the_directory_stand_in_the_file_as_they_are_replaced() {
        for (what, address) in Addresses::declared().each() {
            assert!(FACTORY.contains(&address.to_string()), "{what}: {address}");
        }
        assert!(FACTORY.contains(&format!("data_dir: {DATA} ")));
        assert!(FACTORY.contains("brokers: embedded"));
        let elsewhere = FACTORY.matches(DATA).count();
        assert_eq!(FACTORY.matches(&format!("data_dir: {DATA} ")).count() + FACTORY.matches(&format!("\"{DATA}/")).count(), elsewhere);
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("millrace-place-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("mine.txt"), "precious").unwrap();
        let error = Place::prepare(Some(&folder), None).unwrap_err().to_string();
        assert!(error.contains("not a demo's data"), "{error}");
        fs::remove_file(folder.join("mine.txt")).unwrap();
        let place = Place::prepare(Some(&folder), None).unwrap();
        let text = fs::read_to_string(&place.file).unwrap();
        assert!(text.contains(&format!("data_dir: \"{}\"", folder.display())), "{text}");
        let error = Place::prepare(Some(&folder), None).unwrap_err().to_string();
        assert!(error.contains("another demo runs"), "{error}");
        drop(place);
        fs::remove_dir_all(folder).unwrap();
    }
}
