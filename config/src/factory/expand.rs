//! Templates, tables and references, expanded on the marked tree.
//!
//! ```text
//! a source:  own text filled in -> `profile` merged, own over the profile's
//!            -> `use` found, parameters checked -> template's text filled in (it may `use` another) -> merged, own over template's
//!            -> its devices likewise -> groups tidied
//! ```

use crate::factory::environment::Load;
use crate::factory::files::{self, cause, nearest_entry, same_name};
use crate::factory::merge::{merge, tidy_groups};
use crate::factory::substitute::{self, Scope};
use crate::tree::node::{Entry, Kind, Node};
use crate::tree::place::Place;
use crate::tree::problem::Problems;
use crate::tree::suggest;
use crate::tree::table::{self, Table};
use crate::tree::yaml;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Templates that use templates that use templates.
const MAX_USES: usize = 16;
/// Sources, devices and tags made from templates and tables, in values of the tree.
const MAX_NODES: usize = 20_000_000;
const REQUIRED: &str = "required";
/// A template's parameters can't be called like what is built in.
const BUILT_IN: [&str; 2] = ["name", "site"];

/// Expands the merged tree: without `include`, `templates`, `sources_from`; with every source and sink in full.
pub(crate) fn expand(merged: Node, how: &Load, problems: &mut Problems) -> Node {
    let place = merged.place;
    let Kind::Map(mut top) = merged.kind else { return merged };
    let templates = remove(&mut top, "templates").unwrap_or(Node::null(place));
    let tables = remove(&mut top, "sources_from");
    remove(&mut top, "include");
    let mut expander = Expander {
        how,
        problems,
        templates: HashMap::new(),
        tables: HashMap::new(),
        site: None,
        using: Vec::new(),
        nodes: 0,
        exhausted: false,
    };
    let nothing = Scope { name: None, site: None, params: &[], via: None };
    expander.site = top.iter().find(|entry| *entry.key == *"site").map(|entry| expander.fill(&entry.value, "site", &nothing));
    let templates = expander.templates(templates);
    expander.templates = templates.iter().map(|entry| (&*entry.key, &entry.value)).collect();

    let mut sources = Vec::new();
    let mut sinks = None;
    let mut rest = Vec::new();
    let mut sources_place = None;
    for entry in top {
        match &*entry.key {
            "sources" => {
                sources_place = Some(entry.value.place);
                sources = expander.pieces(&entry.value);
            }
            "sinks" => sinks = Some(Node::new(entry.value.place, Kind::Map(expander.pieces(&entry.value)))),
            key => {
                let value = match expander.site.clone() {
                    Some(site) if key == "site" => site,
                    site => expander.fill(&entry.value, key, &Scope { site: site.as_ref(), ..nothing }),
                };
                rest.push(Entry { key: entry.key.clone(), value });
            }
        }
    }
    if let Some(tables) = tables {
        sources_place.get_or_insert(tables.place);
        expander.sources_from(&tables, &mut sources);
    }
    if let Some(place) = sources_place {
        rest.push(Entry { key: "sources".into(), value: Node::new(place, Kind::Map(sources)) });
    }
    if let Some(sinks) = sinks {
        rest.push(Entry { key: "sinks".into(), value: sinks });
    }
    Node::new(place, Kind::Map(rest))
}

fn remove(entries: &mut Vec<Entry>, key: &str) -> Option<Node> {
    let at = entries.iter().position(|entry| *entry.key == *key)?;
    Some(entries.remove(at).value)
}

struct Expander<'a> {
    how: &'a Load,
    problems: &'a mut Problems,
    templates: HashMap<&'a str, &'a Node>,
    /// Tables by path; `None` for one that can't be read, which is said once.
    tables: HashMap<PathBuf, Option<Arc<Table>>>,
    site: Option<Node>,
    /// Templates being filled in, the outermost first.
    using: Vec<String>,
    nodes: usize,
    exhausted: bool,
}

impl<'a> Expander<'a> {
    fn templates(&mut self, node: Node) -> Vec<Entry> {
        let Kind::Map(entries) = node.kind else {
            if !node.is_null() {
                self.problems.error(node.place, format!("expected templates by name, found {}", node.describe()));
            }
            return Vec::new();
        };
        for entry in &entries {
            if !matches!(entry.value.kind, Kind::Map(_)) {
                let found = entry.value.describe();
                self.problems.error(entry.value.place, format!("expected a piece of a source or of a device, found {found}"));
                continue;
            }
            let Some(params) = entry.value.get("params") else { continue };
            if !matches!(params.kind, Kind::Map(_) | Kind::Null) {
                self.problems
                    .error(params.place, format!("expected parameters by name, found {}", params.describe()))
                    .help("`{host: required, port: 502}`: required, or a default");
            }
            for param in params.entries().iter().filter(|param| BUILT_IN.contains(&&*param.key)) {
                self.problems
                    .error(param.value.place.key(), format!("a parameter can't be called `{}`: that is built in", param.key))
                    .help("rename it");
            }
        }
        entries
    }

    /// The sources or sinks that are written out.
    fn pieces(&mut self, node: &Node) -> Vec<Entry> {
        let Kind::Map(entries) = &node.kind else {
            if !node.is_null() {
                self.problems.error(node.place, format!("expected a mapping by name, found {}", node.describe()));
            }
            return Vec::new();
        };
        let site = self.site.clone();
        let mut pieces = Vec::new();
        for entry in entries {
            if !matches!(entry.value.kind, Kind::Map(_)) {
                let found = entry.value.describe();
                self.problems.error(entry.value.place, format!("expected the keys of `{}`, found {found}", entry.key));
                continue;
            }
            let scope = Scope { name: Some(&entry.key), site: site.as_ref(), params: &[], via: None };
            let value = self.piece(&entry.value, &scope, 0);
            pieces.push(Entry { key: entry.key.clone(), value });
        }
        pieces
    }

    /// A source for every row of every table.
    fn sources_from(&mut self, tables: &Node, sources: &mut Vec<Entry>) {
        let mut seen: HashMap<Arc<str>, Place> = sources.iter().map(|entry| (entry.key.clone(), entry.value.place.key())).collect();
        let site = self.site.clone();
        let single = std::slice::from_ref(tables);
        for path in if tables.text().is_some() { single } else { tables.items() } {
            let filled = self.fill(path, "sources_from", &Scope { name: None, site: site.as_ref(), params: &[], via: None });
            let Some(table) = self.table(&filled) else { continue };
            let at = self.problems.places.sibling(path.place, "sources");
            let via = self.problems.places.add_use(format!("`{}`", filled.as_str().unwrap_or_default()), table.root, at);
            for row in &table.rows {
                let place = row.place.through(via);
                if let Some(first) = seen.insert(row.name.clone(), place) {
                    same_name("source", &row.name, place, first, self.problems);
                    continue;
                }
                let piece = self.row(row).map_places(&|place| place.through(via));
                let scope = Scope { name: Some(&row.name), site: site.as_ref(), params: &[], via: None };
                let value = self.piece(&piece, &scope, 0);
                sources.push(Entry { key: row.name.clone(), value });
            }
        }
    }

    /// A row as the source or device it stands for: columns that are parameters of its template go under `with`.
    fn row(&self, row: &table::Row) -> Node {
        let template = row.cells.iter().find(|(column, _)| **column == *"use").and_then(|(_, cell)| cell.as_str());
        let params = template.and_then(|name| self.templates.get(name)).and_then(|template| template.get("params"));
        let is_param = |column: &str| params.is_some_and(|params| params.get(column).is_some());
        let entry = |(column, cell): &(Arc<str>, Node)| Entry { key: column.clone(), value: cell.clone() };
        let with: Vec<Entry> = row.cells.iter().filter(|(column, _)| is_param(column)).map(entry).collect();
        let mut entries: Vec<Entry> = row.cells.iter().filter(|(column, _)| !is_param(column)).map(entry).collect();
        if !with.is_empty() {
            entries.push(Entry { key: "with".into(), value: Node::new(row.place, Kind::Map(with)) });
        }
        Node::new(row.place, Kind::Map(entries))
    }

    /// A source, sink or device in full: filled in, its template merged in, its devices too, groups tidied.
    fn piece(&mut self, node: &Node, scope: &Scope, depth: usize) -> Node {
        let filled = self.fill_piece(node, scope);
        let mut merged = self.used(filled, scope, depth);
        if let Kind::Map(entries) = &mut merged.kind
            && depth == 0
        {
            for entry in entries.iter_mut().filter(|entry| *entry.key == *"devices") {
                if let Kind::Map(devices) = &mut entry.value.kind {
                    for device in devices {
                        let scope = Scope { name: Some(&device.key), params: &[], via: None, ..*scope };
                        let own = std::mem::replace(&mut device.value, Node::null(Place::NONE));
                        let mut own = self.used(own, &scope, 0);
                        tidy_groups(&mut own, self.problems);
                        device.value = own;
                    }
                }
            }
            tidy_groups(&mut merged, self.problems);
        }
        merged
    }

    /// Merges the profile that a filled-in piece names, then the template that it uses.
    fn used(&mut self, own: Node, scope: &Scope, depth: usize) -> Node {
        let own = self.profiled(own);
        let Some(wanted) = own.get("use").cloned() else {
            let (with, rest) = own.take(&["with"]);
            let Some(with) = with.get("with") else { return own };
            self.problems.error(with.place.key(), "`with` gives parameters, but no template is used").help("add `use: ..`");
            return rest;
        };
        let (with, mut own) = own.take(&["use", "with"]);
        let with = with.get("with").cloned();
        let Some(name) = wanted.as_str() else {
            self.problems.error(wanted.place, format!("expected the name of a template, found {}", wanted.describe()));
            return own;
        };
        let own_type = own.get("type").map(|_| ());
        let Some(template) = self.templates.get(name).copied() else {
            let help = suggest::help(name, "templates", self.templates.keys().copied().collect::<Vec<_>>());
            self.problems.error(wanted.place, format!("there is no template `{name}`")).help(help);
            // With `use` still there, nobody misses what the template would have given.
            if let (Kind::Map(entries), None) = (&mut own.kind, own_type) {
                entries.push(Entry { key: "use".into(), value: wanted.clone() });
            }
            return own;
        };
        if depth >= MAX_USES {
            self.problems.error(wanted.place, format!("templates use each other more than {MAX_USES} deep")).help("write them flatter");
            return own;
        }
        if self.using.iter().any(|using| using == name) {
            let by_way_of = match self.using.last() {
                Some(last) if last != name => format!(", by way of `{last}`"),
                _ => String::new(),
            };
            self.problems.error(wanted.place, format!("the template `{name}` uses itself{by_way_of}"));
            return own;
        }
        let via = self.problems.places.add_use(format!("template `{name}`"), template.place, own.place);
        let params = self.params(name, template, with.as_ref(), &mut own, scope);
        let (_, body) = template.take(&["params"]);
        let inner = Scope { params: &params, via: Some(via), ..*scope };
        self.using.push(name.to_owned());
        let body = self.piece(&body, &inner, depth + 1);
        self.using.pop();
        merge(body, own)
    }

    /// Merges the file of keys that a piece names, its own keys over the file's. The path is relative to the file that names it.
    fn profiled(&mut self, own: Node) -> Node {
        let Some(path) = own.get("profile").cloned() else { return own };
        let (_, own) = own.take(&["profile"]);
        let Some(text) = path.as_str() else {
            self.problems.error(path.place, format!("expected the path of a device profile, found {}", path.describe()));
            return own;
        };
        let folder = Path::new(self.problems.places.file_of(path.place)).parent().unwrap_or(Path::new(""));
        let full = files::tidy(&folder.join(text));
        let bytes = match self.how.files.read(&full, yaml::MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                let problem = self.problems.error(path.place, format!("cannot read the profile {}: {}", full.display(), cause(&error)));
                problem.help("`millrace probe TYPE URL --profiles FOLDER` writes one");
                return own;
            }
        };
        let Some(profile) = yaml::read(&full.to_string_lossy(), &bytes, self.problems) else { return own };
        if !matches!(profile.kind, Kind::Map(_)) {
            self.problems
                .error(path.place, format!("the profile {} holds no keys: it is {}", full.display(), profile.describe()))
                .help("write the keys of a device, as they would stand here: `max_registers: 60`");
            return own;
        }
        let via = self.problems.places.add_use(format!("profile `{text}`"), profile.place, own.place);
        merge(profile.map_places(&|place| place.through(via)), own)
    }

    /// The values of a template's parameters: given, or by default.
    fn params(&mut self, name: &str, template: &Node, with: Option<&Node>, own: &mut Node, scope: &Scope) -> Vec<Entry> {
        let declared = template.get("params").map(Node::entries).unwrap_or_default();
        let given = with.map(Node::entries).unwrap_or_default();
        if let Some(with) = with
            && !matches!(with.kind, Kind::Map(_) | Kind::Null)
        {
            self.problems.error(with.place, format!("expected parameters by name, found {}", with.describe()));
        }
        for entry in given {
            if !declared.iter().any(|param| param.key == entry.key) {
                let help = nearest_entry(&entry.key, "parameters", template.get("params"));
                self.problems
                    .error(entry.value.place.key(), format!("the template `{name}` has no parameter `{}`", entry.key))
                    .help(help)
                    .also(template.place.key(), "the template");
            }
        }
        let mut params: Vec<Entry> = Vec::new();
        for param in declared {
            let value = match given.iter().find(|entry| entry.key == param.key && !entry.value.is_null()) {
                Some(entry) => entry.value.clone(),
                None if param.value.as_str() == Some(REQUIRED) => {
                    let misspelt = given.iter().any(|entry| suggest::nearest(&entry.key, [&*param.key]).is_some());
                    if !misspelt && !self.misspelt_beside(name, &param.key, own) {
                        self.problems
                            .error(own.place, format!("the template `{name}` needs `{}`", param.key))
                            .help(format!("add `with: {{{}: ..}}`; in a table, a column `{}`", param.key, param.key))
                            .also(param.value.place.key(), "it is required");
                    }
                    let missing = Node::string(param.value.place, "");
                    self.problems.places.set_unread(missing.place);
                    missing
                }
                None => {
                    let so_far = Scope { params: &params, ..*scope };
                    self.fill(&param.value, &param.key, &so_far)
                }
            };
            params.push(Entry { key: param.key.clone(), value });
        }
        params
    }

    /// Whether a missing parameter is there among the piece's own keys, misspelt: a column of a table. If so, says it.
    fn misspelt_beside(&mut self, template: &str, param: &str, own: &mut Node) -> bool {
        let Kind::Map(entries) = &mut own.kind else { return false };
        let Some(at) = entries.iter().position(|entry| suggest::nearest(&entry.key, [param]).is_some()) else { return false };
        let misspelt = entries.remove(at);
        self.problems
            .error(misspelt.value.place.key(), format!("unknown key `{}`", misspelt.key))
            .help(format!("did you mean `{param}`, a parameter of the template `{template}`?"));
        true
    }

    /// Fills in a piece: its devices' texts know the device's name, not the source's.
    fn fill_piece(&mut self, node: &Node, scope: &Scope) -> Node {
        let Kind::Map(entries) = &node.kind else { return self.fill(node, "", scope) };
        let mut filled = Vec::with_capacity(entries.len());
        let mut devices: Option<Node> = None;
        for entry in entries {
            match (&*entry.key, &entry.value.kind) {
                ("devices", Kind::Map(written)) => {
                    let mut all = Vec::with_capacity(written.len());
                    for device in written {
                        let scope = Scope { name: Some(&device.key), ..*scope };
                        all.push(Entry { key: device.key.clone(), value: self.fill(&device.value, "", &scope) });
                    }
                    add(&mut devices, scope.place(entry.value.place), all, self.problems);
                }
                ("devices_from", _) => {
                    let path = self.fill(&entry.value, "devices_from", scope);
                    let rows = self.rows(&path, "devices", scope, |expander, row| expander.row(row));
                    add(&mut devices, path.place, rows, self.problems);
                }
                _ => filled.push(Entry { key: self.key(entry, scope), value: self.fill(&entry.value, &entry.key, scope) }),
            }
        }
        if let Some(devices) = devices {
            filled.push(Entry { key: "devices".into(), value: devices });
        }
        Node::new(scope.place(node.place), Kind::Map(filled))
    }

    /// Fills in every text below a node; `tags_from` becomes tags.
    fn fill(&mut self, node: &Node, key: &str, scope: &Scope) -> Node {
        let place = scope.place(node.place);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            if !self.exhausted {
                self.problems.error(place, format!("templates and tables make more than {MAX_NODES} values"));
            }
            self.exhausted = true;
            return Node::null(place);
        }
        match &node.kind {
            Kind::String(text) if text.as_str().contains("${") && text.reference().is_none() => {
                match substitute::resolve(text, place, key, scope, self.how, self.problems) {
                    Some(resolved) => resolved,
                    None => Node::new(place, node.kind.clone()),
                }
            }
            Kind::Seq(items) => Node::new(place, Kind::Seq(items.iter().map(|item| self.fill(item, key, scope)).collect())),
            Kind::Map(entries) => {
                let mut filled = Vec::with_capacity(entries.len());
                let mut tags: Option<Node> = None;
                for entry in entries {
                    match &*entry.key {
                        "tags_from" => {
                            let path = self.fill(&entry.value, "tags_from", scope);
                            let rows = self.rows(&path, "tags", scope, |_, row| {
                                let cells = row.cells.iter().map(|(column, cell)| Entry { key: column.clone(), value: cell.clone() });
                                Node::new(row.place, Kind::Map(cells.collect()))
                            });
                            add(&mut tags, path.place, rows, self.problems);
                        }
                        "tags" if matches!(entry.value.kind, Kind::Map(_)) && node.get("tags_from").is_some() => {
                            let written = self.fill(&entry.value, "tags", scope);
                            if let Kind::Map(written_tags) = written.kind {
                                add(&mut tags, written.place, written_tags, self.problems);
                            }
                        }
                        _ => filled.push(Entry { key: self.key(entry, scope), value: self.fill(&entry.value, &entry.key, scope) }),
                    }
                }
                if let Some(tags) = tags {
                    filled.push(Entry { key: "tags".into(), value: tags });
                }
                Node::new(place, Kind::Map(filled))
            }
            scalar => Node::new(place, scalar.clone()),
        }
    }

    /// A key may be a text with `${..}` too.
    fn key(&mut self, entry: &Entry, scope: &Scope) -> Arc<str> {
        if !entry.key.contains("${") {
            return entry.key.clone();
        }
        let place = scope.place(entry.value.place).key();
        match substitute::resolve(&(&*entry.key).into(), place, "name", scope, self.how, self.problems) {
            Some(resolved) => match resolved.as_str() {
                Some(key) => key.into(),
                None => {
                    self.problems.error(place, format!("expected a name, found {}", resolved.describe()));
                    entry.key.clone()
                }
            },
            None => entry.key.clone(),
        }
    }

    /// The rows of a table that is named inside of a source, as entries of `key` beside it.
    fn rows(&mut self, paths: &Node, key: &str, scope: &Scope, make: impl Fn(&Self, &table::Row) -> Node) -> Vec<Entry> {
        let mut entries = Vec::new();
        let single = std::slice::from_ref(paths);
        for path in if paths.text().is_some() { single } else { paths.items() } {
            let Some(table) = self.table(path) else { continue };
            let at = self.problems.places.sibling(path.place, key);
            let via = self.problems.places.add_use(format!("`{}`", path.as_str().unwrap_or_default()), table.root, at);
            for row in &table.rows {
                let name = if key == "devices" { Some(&*row.name) } else { scope.name };
                let scope = Scope { name, via: Some(via), ..*scope };
                let made = make(self, row);
                entries.push(Entry { key: row.name.clone(), value: self.fill(&made, key, &scope) });
            }
        }
        entries
    }

    /// Reads a table, once. Its path is relative to the file that names it.
    fn table(&mut self, path: &Node) -> Option<Arc<Table>> {
        let Some(text) = path.as_str() else {
            if !path.is_null() {
                self.problems.error(path.place, format!("expected the path of a CSV file, found {}", path.describe()));
            }
            return None;
        };
        let folder = Path::new(self.problems.places.file_of(path.place)).parent().unwrap_or(Path::new(""));
        let full = files::tidy(&folder.join(text));
        if let Some(known) = self.tables.get(&full) {
            return known.clone();
        }
        let table = match self.how.files.read(&full, table::MAX_BYTES) {
            Ok(bytes) if bytes.len() > table::MAX_BYTES => {
                self.problems
                    .error(path.place, format!("the table {} is larger than {} MiB", full.display(), table::MAX_BYTES >> 20))
                    .help("split it");
                None
            }
            Ok(bytes) => table::read(&full.to_string_lossy(), &bytes, self.problems).map(Arc::new),
            Err(error) => {
                self.problems.error(path.place, format!("cannot read the table {}: {}", full.display(), cause(&error)));
                None
            }
        };
        self.tables.insert(full, table.clone());
        table
    }
}

/// Adds entries to a mapping that is put together from several places; the same name twice is an error.
fn add(node: &mut Option<Node>, place: Place, more: Vec<Entry>, problems: &mut Problems) {
    let node = node.get_or_insert_with(|| Node::new(place, Kind::Map(Vec::new())));
    let Kind::Map(entries) = &mut node.kind else { return };
    let known: HashMap<Arc<str>, Place> = entries.iter().map(|entry| (entry.key.clone(), entry.value.place.key())).collect();
    for entry in more {
        match known.get(&entry.key) {
            None => entries.push(entry),
            Some(first) => same_name("name", &entry.key, entry.value.place.key(), *first, problems),
        }
    }
}
