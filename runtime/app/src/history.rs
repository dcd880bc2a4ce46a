//! Which configurations ran: `millrace config history | diff | rollback`.

use crate::ask::Service;
use crate::files::Files;
use crate::kept::{About, FOLDER, RUNNING, all, load, of};
use crate::reload;
use crate::say::{self, say, say_part, tell, time, visible};
use anyhow::{Context, Result, anyhow, bail};
use millrace_config::{Load, Problems};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

/// What a rollback writes over is kept beside it.
const BEFORE: &str = "before-rollback";

#[derive(clap::Args)]
pub struct HistoryOptions {
    #[command(flatten)]
    files: Files,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct DiffOptions {
    /// The number of a configuration, as `config history` lists it.
    from: u64,
    /// Another one to compare it with; the one that runs without it.
    to: Option<u64>,
    #[command(flatten)]
    files: OnlyFiles,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct RollbackOptions {
    /// The number of the configuration to go back to.
    number: u64,
    #[command(flatten)]
    files: OnlyFiles,
    /// Only says which files would be written, and what that changes.
    #[arg(long)]
    dry_run: bool,
    /// What is done with the files as one JSON document, what the service says of it as another.
    #[arg(long)]
    json: bool,
}

/// The factory's files, where other words stand in front.
#[derive(clap::Args)]
struct OnlyFiles {
    /// The factory's YAML: a file, several, or a folder.
    #[arg(short, long = "config", required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
}

/// The data directory that files declare, however wrong the rest of them is.
fn data_dir(config: &[PathBuf]) -> Result<PathBuf> {
    let mut problems = Problems::new();
    let factory = millrace_config::load(config, &Load::to_check(), &mut problems);
    factory.map(|factory| factory.data_dir).ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))
}

fn one(folder: &Path, number: u64) -> Result<About> {
    let known = all(folder)?;
    let (first, last) = (known.first().map_or(0, |about| about.number), known.last().map_or(0, |about| about.number));
    let found = known.into_iter().find(|about| about.number == number);
    found.ok_or_else(|| match last {
        0 => anyhow!("no configuration was kept in {}: nothing has run here yet", folder.display()),
        _ => anyhow!("there is no configuration {number}; {first} to {last} are kept"),
    })
}

/// `millrace config history`.
pub fn history(options: HistoryOptions) -> Result<ExitCode> {
    let known = all(&data_dir(&options.files.paths())?.join(FOLDER))?;
    if options.json {
        say::json(&serde_json::to_value(&known)?);
        return Ok(ExitCode::SUCCESS);
    }
    for about in known.iter().rev() {
        let changes = match about.changes.is_empty() {
            true => "started".to_owned(),
            false => about.changes.join("; "),
        };
        say!("{:>6}  {}  {}", about.number, time(about.taken), visible(&changes));
    }
    if known.is_empty() {
        say!("nothing has run here yet");
    }
    Ok(ExitCode::SUCCESS)
}

/// `millrace config diff`.
pub fn diff(options: &DiffOptions) -> Result<ExitCode> {
    let folder = data_dir(&options.files.config)?.join(FOLDER);
    let to = match options.to {
        Some(to) => one(&folder, to)?,
        None => all(&folder)?.pop().context("no configuration was kept yet")?,
    };
    let from = one(&folder, options.from)?;
    let text = |about: &About| {
        let path = of(&folder, about.number).join(RUNNING);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let lines = difference(&text(&from)?, &text(&to)?);
    if options.json {
        let side = |about: &About| json!({"number": about.number, "taken": about.taken});
        say::json(&json!({"from": side(&from), "to": side(&to), "lines": lines.lines().collect::<Vec<_>>()}));
    } else if lines.is_empty() {
        say!("{} and {} say the same", from.number, to.number);
    } else {
        say_part!("--- {} {}\n+++ {} {}\n{lines}", from.number, time(from.taken), to.number, time(to.taken));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines that go (`-`) and come (`+`), each run below the unchanged lines it belongs to (`site`, `sources`, ..).
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same_before = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - same_before;
    let same_after = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[same_before..old.len() - same_after], &new[same_before..new.len() - same_after]);
    let mut marked: Vec<(char, &str)> = old[..same_before].iter().map(|line| (' ', *line)).collect();
    marked.extend(changed(a, b));
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::new();
    // The lines above a change that it is nested in.
    let mut above: Vec<(&str, bool)> = Vec::new();
    for (mark, line) in marked {
        if line.trim().is_empty() {
            continue;
        }
        above.retain(|(parent, _)| indent(parent) < indent(line));
        if mark == ' ' {
            above.push((line, false));
            continue;
        }
        for (parent, is_said) in above.iter_mut().filter(|(_, is_said)| !*is_said) {
            out += &format!("  {}\n", visible(parent));
            *is_said = true;
        }
        out += &format!("{mark} {}\n", visible(line));
    }
    out
}

/// Lines both have in a row are found by the longest common subsequence; beyond a size that is worth it everything goes and comes.
fn changed<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<(char, &'t str)> {
    if a.len().saturating_mul(b.len()) > 4_000_000 {
        return a.iter().map(|line| ('-', *line)).chain(b.iter().map(|line| ('+', *line))).collect();
    }
    let width = b.len() + 1;
    let mut longest = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = match a[i] == b[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            out.push(('-', a[i]));
            i += 1;
        } else {
            out.push(('+', b[j]));
            j += 1;
        }
    }
    out
}

/// `millrace config rollback`: writes the files as they were, then lets the running service take them.
pub fn rollback(options: &RollbackOptions) -> Result<ExitCode> {
    let folder = data_dir(&options.files.config)?.join(FOLDER);
    let about = one(&folder, options.number)?;
    let mut kept = Vec::new();
    for (at, path) in about.files.iter().enumerate() {
        let from = of(&folder, about.number).join(format!("file-{at}"));
        kept.push((path.clone(), fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?));
    }
    // What is there now and was not then would be read along: it is put aside.
    let mut problems = Problems::new();
    let (_, _, now) = load(&options.files.config, &mut problems);
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let known: Vec<PathBuf> = kept.iter().map(|(path, _)| real(path)).collect();
    let surplus: Vec<&Path> = now.paths().filter(|path| !known.contains(&real(path))).collect();
    kept.retain(|(path, bytes)| !fs::read(path).is_ok_and(|there| there == *bytes));
    if options.json {
        let shown = |path: &Path| path.display().to_string();
        say::json(&json!({
            "number": about.number, "dry_run": options.dry_run, "written": kept.iter().map(|(path, _)| shown(path)).collect::<Vec<_>>(),
            "put_aside": surplus.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        }));
    }
    for (path, bytes) in &kept {
        if !options.json {
            say!("{} is written as it was in {}", path.display(), about.number);
        }
        if !options.dry_run {
            put_aside(path)?;
            fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    for &path in &surplus {
        if !options.json {
            say!("{} was not there in {}: it is put aside", path.display(), about.number);
        }
        if !options.dry_run {
            put_aside(path)?;
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    if kept.is_empty() && surplus.is_empty() && !options.json {
        say!("the files are as they were in {}", about.number);
    }
    if options.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let mut problems = Problems::new();
    let (_, works, _) = load(&options.files.config, &mut problems);
    if works.is_none() {
        tell!("{}", problems.render());
        bail!(
            "this release does not take configuration {}; what runs goes on, the files before are beside these: *.{BEFORE}",
            about.number
        );
    }
    reload::tell_service(&Service::of(options.files.config.clone()), &folder.with_file_name(""), false, options.json)
}

fn put_aside(path: &Path) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{BEFORE}"));
    match fs::copy(path, &name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot copy {} to {}", path.display(), Path::new(&name).display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_the_lines_it_is_nested_in() {
        let old = "site: a/b\nsources:\n  one:\n    type: x\n    rate: 1\n  two:\n    type: x\n";
        let new = "site: a/b\nsources:\n  one:\n    type: x\n    rate: 2\n  two:\n    type: x\n  three:\n    type: y\n";
        assert_eq!(difference(old, new), "  sources:\n    one:\n-     rate: 1\n+     rate: 2\n+   three:\n+     type: y\n");
        assert_eq!(difference(old, old), "");
    }
}
