//! The names of the simulated disk: what is cached, what is durable, and the operations between the two.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::NamesKept;
use super::rng::Rng;

pub(in crate::disk) type DirId = u64;
pub(in crate::disk) type FileId = u64;

pub(in crate::disk) const ROOT: DirId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::disk) enum Node {
    File(FileId),
    Dir(DirId),
}

/// A name in a directory.
pub(in crate::disk) type Place = (DirId, String);
type Names = BTreeMap<String, Node>;

/// A change of names. Each is atomic, a rename between directories too: no Linux file system shows both names or none.
#[derive(Clone, Debug)]
pub(in crate::disk) enum NameOp {
    Link { at: Place, node: Node },
    Unlink { at: Place },
    Rename { from: Place, to: Place, node: Node },
}

impl NameOp {
    fn places(&self) -> Vec<&Place> {
        match self {
            Self::Link { at, .. } | Self::Unlink { at } => vec![at],
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Dir {
    cached: Names,
    durable: Names,
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    dirs: BTreeMap<DirId, Dir>,
    /// Not durable yet, oldest first.
    pending: Vec<NameOp>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            pending: Vec::new(),
        }
    }

    pub(super) fn dir(&self, names: &[&str]) -> Result<DirId, Errno> {
        let mut dir = ROOT;
        for name in names {
            dir = match self.get(dir, name) {
                Some(Node::Dir(id)) => id,
                Some(Node::File(_)) => return Err(Errno::NOTDIR),
                None => return Err(Errno::NOENT),
            };
        }
        Ok(dir)
    }

    pub(super) fn get(&self, dir: DirId, name: &str) -> Option<Node> {
        self.names(dir).get(name).copied()
    }

    pub(super) fn names(&self, dir: DirId) -> &Names {
        &self.dirs[&dir].cached
    }

    pub(super) fn link(&mut self, dir: DirId, name: &str, node: Node) {
        if let Node::Dir(id) = node {
            self.dirs.insert(id, Dir::default());
        }
        let at = (dir, name.to_owned());
        self.add(NameOp::Link { at, node });
    }

    /// Links without need of a sync.
    pub(super) fn link_durably(&mut self, dir: DirId, name: &str, node: Node) {
        self.link(dir, name, node);
        self.sync_places(|place| place.0 == dir && place.1 == name);
    }

    pub(super) fn unlink(&mut self, dir: DirId, name: &str) {
        let at = (dir, name.to_owned());
        self.add(NameOp::Unlink { at });
    }

    /// Renames and returns the file that had the new name before, if there was one.
    pub(super) fn rename(&mut self, from: (DirId, &str), to: (DirId, &str)) -> Result<Option<FileId>, Errno> {
        let node = self.get(from.0, from.1).ok_or(Errno::NOENT)?;
        let replaced = self.get(to.0, to.1);
        if replaced == Some(node) {
            return Ok(None);
        }
        // In the order of Linux: first whether one would swallow the other, then what they are.
        let replaced = match (node, replaced) {
            (Node::Dir(id), _) if self.is_inside(to.0, id) => return Err(Errno::INVAL),
            (_, Some(Node::Dir(old))) if self.is_inside(from.0, old) => return Err(Errno::NOTEMPTY),
            (Node::File(_), Some(Node::Dir(_))) => return Err(Errno::ISDIR),
            (Node::Dir(_), Some(Node::File(_))) => return Err(Errno::NOTDIR),
            (Node::Dir(_), Some(Node::Dir(old))) if !self.names(old).is_empty() => {
                return Err(Errno::NOTEMPTY);
            }
            (_, Some(Node::File(old))) => Some(old),
            (_, Some(Node::Dir(_)) | None) => None,
        };
        let [from, to] = [from, to].map(|(dir, name)| (dir, name.to_owned()));
        self.add(NameOp::Rename { from, to, node });
        Ok(replaced)
    }

    /// Makes every change in `dir` durable, with the earlier changes of the same names elsewhere that it builds on. Returns
    /// what became durable, in order.
    pub(super) fn sync(&mut self, dir: DirId) -> Vec<NameOp> {
        self.sync_places(|place| place.0 == dir)
    }

    /// Makes one change durable that nobody asked for yet.
    pub(super) fn write_back(&mut self, rng: &mut Rng) -> Vec<NameOp> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let nth = usize::try_from(rng.below(self.pending.len() as u64)).unwrap_or(0);
        let places: Vec<Place> = self.pending[nth].places().into_iter().cloned().collect();
        self.sync_places(|place| places.contains(place))
    }

    fn sync_places(&mut self, asked: impl Fn(&Place) -> bool) -> Vec<NameOp> {
        let mut durable = Vec::new();
        let mut needed: BTreeSet<Place> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (op, chosen) in self.pending.iter().zip(&mut chosen).rev() {
            let places = op.places();
            *chosen = places.iter().any(|place| asked(place) || needed.contains(*place));
            if *chosen {
                needed.extend(places.into_iter().cloned());
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (op, chosen) in pending.into_iter().zip(chosen) {
            if chosen {
                self.apply(&op, Dir::durable_names);
                durable.push(op);
            } else {
                self.pending.push(op);
            }
        }
        durable
    }

    /// A failed sync: the changes stay visible and no later sync will try them again.
    pub(super) fn fail_sync(&mut self, dir: DirId) {
        self.pending
            .retain(|op| op.places().iter().all(|place| place.0 != dir));
    }

    /// The names that a power cut leaves, all durable.
    pub(super) fn cut(&self, rng: &mut Rng, kept: NamesKept) -> Self {
        let mut after = self.clone();
        let survives = match kept {
            NamesKept::All => vec![true; self.pending.len()],
            NamesKept::None => vec![false; self.pending.len()],
            NamesKept::Prefix => self.choose_prefixes(rng),
            NamesKept::Subset => self.choose_subset(rng),
        };
        for (op, survives) in std::mem::take(&mut after.pending).iter().zip(survives) {
            if survives {
                after.apply(op, Dir::durable_names);
            }
        }
        for dir in after.dirs.values_mut() {
            dir.cached = dir.durable.clone();
        }
        let reachable: BTreeSet<DirId> = after.walk().into_iter().map(|(_, dir)| dir).collect();
        after.dirs.retain(|dir, _| reachable.contains(dir));
        after
    }

    /// Every directory that can be reached, with its path, parents first.
    pub(super) fn walk(&self) -> Vec<(String, DirId)> {
        let mut found = vec![(String::new(), ROOT)];
        let mut next = 0;
        while let Some((path, dir)) = found.get(next).cloned() {
            for (name, node) in self.names(dir) {
                if let Node::Dir(id) = node {
                    found.push((join(&path, name), *id));
                }
            }
            next += 1;
        }
        found
    }

    /// Files that a name leads to, or could lead to after a power cut.
    pub(super) fn referenced(&self) -> BTreeSet<FileId> {
        let pending = self.pending.iter().filter_map(|op| match op {
            NameOp::Link { node, .. } | NameOp::Rename { node, .. } => Some(*node),
            NameOp::Unlink { .. } => None,
        });
        self.dirs
            .values()
            .flat_map(|dir| dir.cached.values().chain(dir.durable.values()).copied())
            .chain(pending)
            .filter_map(|node| match node {
                Node::File(id) => Some(id),
                Node::Dir(_) => None,
            })
            .collect()
    }

    fn add(&mut self, op: NameOp) {
        self.apply(&op, Dir::cached_names);
        self.pending.push(op);
    }

    fn apply(&mut self, op: &NameOp, names: fn(&mut Dir) -> &mut Names) {
        let mut of = |place: &Place, node: Option<Node>| {
            // A directory that is gone for good takes its names along.
            if let Some(dir) = self.dirs.get_mut(&place.0) {
                match node {
                    Some(node) => names(dir).insert(place.1.clone(), node),
                    None => names(dir).remove(&place.1),
                };
            }
        };
        match op {
            NameOp::Link { at, node } => of(at, Some(*node)),
            NameOp::Unlink { at } => of(at, None),
            NameOp::Rename { from, to, node } => {
                of(from, None);
                of(to, Some(*node));
            }
        }
    }

    fn is_inside(&self, mut dir: DirId, outer: DirId) -> bool {
        let parent = |child: DirId| {
            let holds = |names: &Names| names.values().any(|&node| node == Node::Dir(child));
            self.dirs.iter().find(|(_, dir)| holds(&dir.cached))
        };
        loop {
            if dir == outer {
                return true;
            }
            match parent(dir) {
                Some((&id, _)) => dir = id,
                None => return false,
            }
        }
    }

    /// A prefix of each directory's changes, as a journalling file system keeps them.
    fn choose_prefixes(&self, rng: &mut Rng) -> Vec<bool> {
        let mut counts: BTreeMap<DirId, u64> = BTreeMap::new();
        for op in &self.pending {
            for dir in dirs_of(op) {
                *counts.entry(dir).or_default() += 1;
            }
        }
        let mut left: BTreeMap<DirId, u64> = counts
            .into_iter()
            .map(|(dir, count)| (dir, rng.below(count + 1)))
            .collect();
        let mut survives = Vec::with_capacity(self.pending.len());
        for op in &self.pending {
            let dirs = dirs_of(op);
            let all = dirs.iter().all(|dir| left[dir] > 0);
            for dir in dirs {
                // One that is lost ends the prefix of every directory that it concerns.
                left.entry(dir)
                    .and_modify(|left| *left = if all { *left - 1 } else { 0 });
            }
            survives.push(all);
        }
        survives
    }

    /// Any changes, but none of a name whose earlier change is lost.
    fn choose_subset(&self, rng: &mut Rng) -> Vec<bool> {
        let quarters = rng.below(5);
        let mut broken: BTreeSet<&Place> = BTreeSet::new();
        let mut survives = Vec::with_capacity(self.pending.len());
        for op in &self.pending {
            let places = op.places();
            let kept = rng.quarters(quarters) && places.iter().all(|place| !broken.contains(place));
            if !kept {
                broken.extend(places);
            }
            survives.push(kept);
        }
        survives
    }
}

impl Dir {
    fn cached_names(&mut self) -> &mut Names {
        &mut self.cached
    }

    fn durable_names(&mut self) -> &mut Names {
        &mut self.durable
    }
}

pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

fn dirs_of(op: &NameOp) -> BTreeSet<DirId> {
    op.places().into_iter().map(|place| place.0).collect()
}
