//! `millrace doctor`: what around the factory would keep it from running. `millrace bundle`: what somebody who helps has to see, without secrets.

use crate::ask;
use crate::catalog::{ENTRIES, Pki, TrustList};
use crate::doctor::finding::Finding;
use crate::doctor::{clocks, rights};
use crate::say::{self, say, visible};
use anyhow::{Context, Result};
use millrace_config::factory::Factory;
use millrace_config::{Load, Problems, Reason};
use millrace_engine::cluster::EMBEDDED;
use millrace_engine::compile::CompiledFactory;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

#[derive(clap::Args)]
pub struct DoctorOptions {
    /// The factory's YAML: a file, several, or a folder.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct BundleOptions {
    #[command(flatten)]
    service: ask::Service,
    /// The factory's YAML to put in: as `check --expanded` prints it, secrets as references.
    #[arg(long = "factory", value_name = "FILE")]
    factory: Vec<PathBuf>,
    /// The file to write, JSON.
    #[arg(long, value_name = "FILE", default_value = "millrace-bundle.json")]
    to: PathBuf,
    /// Says which file was written as JSON.
    #[arg(long)]
    json: bool,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// What is found where a broker answers, or does not.
const REACHED: &str = "kafka";
const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Exit code 1 where something would keep the factory from running.
pub fn doctor(options: &DoctorOptions) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(&options.config, &Load::to_run(), &mut problems);
    let works = factory.as_ref().map(|factory| millrace_engine::compile::compile(factory, ENTRIES, &mut problems));
    let mut findings = vec![Finding {
        what: "configuration".into(),
        ok: factory.is_some() && !problems.has_errors(),
        says: format!("{} problems", problems.iter().count()),
        help: "`millrace check` shows each with its line".into(),
    }];
    if let Some(factory) = factory.filter(|_| !problems.has_errors()) {
        findings.extend(data_directory(&factory));
        findings.extend(disk(&factory));
        findings.extend(listeners(&factory));
        findings.extend(kafka(&factory));
        findings.extend(registry(&factory));
        findings.extend(certificates(&factory));
        findings.extend(works.iter().flat_map(endpoints));
        let settings = millrace_engine::cluster::settings(&factory);
        // A Kafka that does not answer was told already.
        let is_reached = factory.kafka.brokers.value != EMBEDDED && findings.iter().any(|one| one.ok && one.what == REACHED);
        let compiled = works.as_ref().filter(|_| is_reached);
        findings.extend(compiled.into_iter().flat_map(|works| rights::look(&factory, works, &settings)));
        findings.extend(clocks::look(&factory, compiled, &settings, &options.config));
    }
    let all_good = findings.iter().all(|finding| finding.ok);
    if options.json {
        let rows: Vec<Value> =
            findings.iter().map(|f| json!({"what": f.what, "ok": f.ok, "says": f.says, "help": (!f.ok).then_some(&f.help)})).collect();
        say::json(&json!({ "ok": all_good, "findings": rows }));
    } else {
        for finding in &findings {
            say!("{} {:<28} {}", if finding.ok { "ok " } else { "BAD" }, finding.what, visible(&finding.says));
            if !finding.ok {
                say!("    -> {}", finding.help);
            }
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn data_directory(factory: &Factory) -> Vec<Finding> {
    let dir = &factory.data_dir;
    let probe = dir.join(".doctor");
    // What is not there yet is made at the first start, in the folder above.
    let written = match dir.exists() {
        true => fs::write(&probe, b"x").and_then(|()| fs::remove_file(&probe)),
        false => fs::metadata(dir.ancestors().find(|above| above.exists()).unwrap_or(dir)).map(drop),
    };
    let mut findings = vec![Finding {
        what: "data directory".into(),
        ok: written.is_ok(),
        says: written.map_or_else(|error| format!("{}: {error}", dir.display()), |()| dir.display().to_string()),
        help: "give the user that runs Millrace the right to write there, or set `data_dir`".into(),
    }];
    #[cfg(unix)]
    if let Ok(about) = fs::metadata(dir) {
        use std::os::unix::fs::PermissionsExt;
        let mode = about.permissions().mode() & 0o777;
        findings.push(Finding {
            what: "data directory's rights".into(),
            ok: mode & 0o007 == 0,
            says: format!("{mode:o}"),
            help: "it holds keys and the plant's data: chmod o-rwx".into(),
        });
    }
    findings
}

/// Room for the logs, and how worn a flash memory is that says so.
fn disk(factory: &Factory) -> Vec<Finding> {
    let there = factory.data_dir.ancestors().find(|above| above.exists()).unwrap_or(&factory.data_dir);
    let mut findings = Vec::new();
    if let Ok(about) = rustix::fs::statvfs(there) {
        let (free, all) = (about.f_bavail * about.f_frsize, (about.f_blocks * about.f_frsize).max(1));
        let keep = match factory.log.keep_free {
            millrace_config::KeepFree::Percent(percent) => (all as f64 * percent / 100.0) as u64,
            millrace_config::KeepFree::Size(bytes) => bytes,
        };
        let mib = |bytes: u64| bytes >> 20;
        findings.push(Finding {
            what: "disk".into(),
            ok: free > keep && free - keep > (256 << 20),
            says: format!(
                "{} MiB free of {} MiB; log.keep_free leaves {} MiB of them",
                mib(free),
                mib(all),
                mib(free.saturating_sub(keep))
            ),
            help: "make room, or set `log.keep_free` or `data_dir` otherwise".into(),
        });
        if about.f_favail == 0 && about.f_files > 0 {
            findings.push(Finding {
                what: "disk's inodes".into(),
                ok: false,
                says: "none are left".into(),
                help: "many small files somewhere: `df -i`".into(),
            });
        }
    }
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(device.path().join("device/life_time")) else { continue };
        let Some(tenths) = worn(&text) else { continue };
        findings.push(Finding {
            what: format!("flash {}", device.file_name().to_string_lossy()),
            ok: tenths < 9,
            says: format!("{} to {} % of its life are used", tenths.saturating_sub(1) * 10, tenths * 10),
            help: "replace it before it turns read-only; a larger `log.sync` and fewer devices that wait for acknowledgements spare it"
                .into(),
        });
    }
    findings
}

/// Tenths of an eMMC's life, of the worse of its two areas: `0x01 0x02`; `None`: it does not say.
fn worn(text: &str) -> Option<u32> {
    let parts = text.split_whitespace().filter_map(|part| u32::from_str_radix(part.trim_start_matches("0x"), 16).ok());
    parts.max().filter(|tenths| *tenths > 0)
}

/// Whether names are known and somebody answers where sources and sinks go; all at once, each for so long and no longer.
fn endpoints(works: &CompiledFactory) -> Vec<Finding> {
    let sources = works.sources.iter().map(|spec| ("source", &spec.name, spec.compiled.plan().endpoint));
    let sinks = works.sinks.iter().map(|spec| ("sink", &spec.name, spec.compiled.plan().endpoint));
    let asked: Vec<_> = sources
        .chain(sinks)
        .filter_map(|(what, name, endpoint)| Some((format!("{what} {name}"), address_in(&endpoint)?)))
        .map(|(what, address)| (what, std::thread::spawn(move || reached(&address))))
        .collect();
    let finding = |(what, asked): (String, std::thread::JoinHandle<Result<String, Reason>>)| {
        let reached = asked.join().unwrap_or_else(|_| Err("asking ended in a panic; please report it".into()));
        Finding {
            what,
            ok: reached.is_ok(),
            says: reached.unwrap_or_else(|error| error.into()),
            help: "is it switched on, the name right (DNS), a firewall in between? The other connectors are not held up".into(),
        }
    };
    asked.into_iter().map(finding).collect()
}

/// `host:port` in an endpoint, with or without a scheme; `None`: a file, a serial line, several.
fn address_in(endpoint: &str) -> Option<String> {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let address = rest.split(['/', '?', ' ', ',']).next()?.rsplit('@').next()?;
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| address.to_owned())
}

fn listeners(factory: &Factory) -> Vec<Finding> {
    let mut listens = vec![("http.listen", factory.http.listen.0)];
    if factory.schemas.registry.value == "embedded" {
        listens.push(("schemas.listen", factory.schemas.listen.0));
    }
    if factory.kafka.brokers.value == "embedded" {
        listens.push(("kafka.embedded.listen", factory.kafka.embedded.listen.0));
    }
    // What runs has the ports; its lock says so.
    let runs = crate::reload::process(&factory.data_dir).is_ok();
    let finding = |(what, address): (&str, SocketAddr)| {
        let bound = TcpListener::bind(address);
        let says = match &bound {
            Ok(_) => format!("{address} is free"),
            Err(_) if runs => format!("{address} is taken; this factory's service runs already"),
            Err(error) => format!("{address}: {error}"),
        };
        Finding { what: what.into(), ok: bound.is_ok() || runs, says, help: "another program has the port: `ss -ltnp` says which".into() }
    };
    listens.into_iter().map(finding).collect()
}

/// Whether a name is known and somebody answers there.
fn reached(address: &str) -> Result<String, Reason> {
    let mut addresses = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    let first = addresses.next().ok_or_else(|| format!("{address} has no address"))?;
    std::net::TcpStream::connect_timeout(&first, PATIENCE).map_err(|error| format!("{address} ({first}): {error}"))?;
    Ok(format!("{address} answers"))
}

fn kafka(factory: &Factory) -> Vec<Finding> {
    let brokers = &factory.kafka.brokers.value;
    if brokers == EMBEDDED {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = brokers
        .split(',')
        .map(|broker| {
            let reached = reached(broker.trim());
            Finding {
                what: REACHED.into(),
                ok: reached.is_ok(),
                says: reached.unwrap_or_else(|error| error.into()),
                help: "is the broker up, the name right, a firewall in between?".into(),
            }
        })
        .collect();
    let settings = millrace_engine::cluster::settings(factory);
    let asked = millrace_kafka::Consumer::reader(&settings, false)
        .and_then(|consumer| consumer.partitions(millrace_engine::cursors::TOPIC, PATIENCE))
        .map(|partitions| format!("{} has {partitions} partitions", millrace_engine::cursors::TOPIC));
    findings.push(Finding {
        what: "kafka's metadata".into(),
        ok: asked.is_ok(),
        says: asked.unwrap_or_else(|error| error.to_string()),
        help: "is the login right, may it describe topics (ACL), does `security.protocol` fit the listener?".into(),
    });
    findings
}

fn registry(factory: &Factory) -> Vec<Finding> {
    let registry = &factory.schemas.registry.value;
    if registry == "none" || registry == "embedded" {
        return Vec::new();
    }
    let finding = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = rest.split(['/', '?']).next().unwrap_or(rest).rsplit('@').next().unwrap_or(rest);
        let port = if url.starts_with("https://") { 443 } else { 80 };
        let reached = reached(&if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") });
        Finding {
            what: "schema registry".into(),
            ok: reached.is_ok(),
            says: reached.unwrap_or_else(|error| error.into()),
            help: "records wait in the log until it answers".into(),
        }
    };
    registry.split(',').map(str::trim).map(finding).collect()
}

fn certificates(factory: &Factory) -> Vec<Finding> {
    let of_use = |shelf| matches!(shelf, TrustList::Own | TrustList::Trusted | TrustList::Issuers);
    let listed = Pki::new(factory.data_dir.join("pki")).list().into_iter().filter(|one| of_use(one.shelf));
    let finding = |one: crate::catalog::CertificateInfo| Finding {
        what: format!("certificate ({})", one.shelf.name()),
        ok: one.until > SystemTime::now() + WARN_BEFORE,
        says: format!("{} until {}", one.subject, one.span.1),
        help: "it ends within thirty days: `millrace pki list`; our own has a successor by itself, to be given to the servers".into(),
    };
    listed.map(finding).collect()
}

/// Writes what a running service says of itself, and its configuration, into one file.
pub fn bundle(options: &BundleOptions) -> Result<ExitCode> {
    let asking = options.service.open()?;
    // Each by itself: what is broken is what the bundle is for.
    let answer =
        |path: &str, query: &[(&str, String)]| asking.get(path, query).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
    let text = |path: &str| asking.text(path, &[]).unwrap_or_else(|error| format!("{error:#}"));
    let configuration = (!options.factory.is_empty()).then(|| {
        let mut problems = Problems::new();
        let factory = millrace_config::load(&options.factory, &Load::to_check(), &mut problems);
        json!({ "problems": problems.to_json(), "expanded": factory.map(|factory| millrace_config::expanded(&factory)) })
    });
    let bundle = json!({
        "millrace": crate::release::VERSION,
        "made": crate::say::time(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)),
        "system": fs::read_to_string("/proc/version").unwrap_or_default().trim(),
        "memory": fs::read_to_string("/proc/meminfo").unwrap_or_default().lines().take(3).collect::<Vec<_>>(),
        "status": answer("/status", &[]),
        "lost": answer("/lost", &[]),
        "bad_tags": answer("/tags", &[("bad", "true".into()), ("stale", "true".into()), ("limit", "1000".into())]),
        "metrics": text("/metrics"),
        "configuration": configuration,
    });
    fs::write(&options.to, serde_json::to_string_pretty(&bundle)?).with_context(|| format!("cannot write {}", options.to.display()))?;
    match options.json {
        true => say::json(&json!({ "file": options.to.display().to_string() })),
        false => say!("{}: look it through before you send it; passwords are in it as references only", options.to.display()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_an_endpoint() {
        for (endpoint, address) in [
            ("mqtts://user@broker.plant:8883/x", Some("broker.plant:8883")),
            ("opc.tcp://10.0.0.5:4840", Some("10.0.0.5:4840")),
            ("10.0.0.7:102", Some("10.0.0.7:102")),
            ("rtu:///dev/ttyUSB0?baud=19200", None),
            ("/var/lib/stand/*.csv", None),
        ] {
            assert_eq!(address_in(endpoint).as_deref(), address, "{endpoint}");
        }
    }

    #[test]
    fn the_worse_of_two_areas_of_a_flash_counts() {
        assert_eq!((worn("0x01 0x0a\n"), worn("0x00 0x00"), worn("")), (Some(10), None, None));
    }
}
