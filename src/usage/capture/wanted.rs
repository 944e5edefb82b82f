/// The longest value that is kept, if not told otherwise.
const LONGEST: usize = 4096;

/// A place to keep a value.
pub(super) type Slot = u16;

/// Which members to find, compiled to a tree.
#[derive(Debug)]
pub(in crate::usage) struct Wanted {
    pub(super) nodes: Vec<Node>,
    pub(super) names: Vec<Box<str>>,
    /// The elements of an array at the top are documents of their own.
    pub(super) elements: bool,
    /// The longest value that is kept, and the longest key that is looked at.
    pub(super) longest: usize,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) slot: Option<Slot>,
    /// Arrays and objects are kept as text rather than entered.
    pub(super) whole: bool,
    pub(super) children: Vec<(Box<str>, usize)>,
}

impl Wanted {
    pub(super) const ROOT: usize = 0;

    pub(in crate::usage) fn new(elements: bool) -> Self {
        Self { nodes: vec![Node::default()], names: Vec::new(), elements, longest: LONGEST }
    }

    /// Documents as a whole, unless they are longer than that.
    pub(in crate::usage) fn documents(longest: usize) -> Self {
        let mut wanted = Self { longest, ..Self::new(true) };
        wanted.add_whole("", "");
        wanted
    }

    /// Adds a member by its JSON pointer. Several may share a name: the last one found counts.
    pub(in crate::usage) fn add(&mut self, pointer: &str, name: &str) -> usize {
        let mut node = Self::ROOT;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let known = self.nodes[node].children.iter().find(|(key, _)| **key == *token);
            node = match known {
                Some((_, child)) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].children.push((token.into(), child));
                    child
                }
            };
        }
        let slot = self.names.iter().position(|known| **known == *name);
        let slot = slot.unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        self.nodes[node].slot = Slot::try_from(slot).ok();
        node
    }

    /// Adds a member that is kept as JSON text, whatever it is.
    pub(in crate::usage) fn add_whole(&mut self, pointer: &str, name: &str) {
        let node = self.add(pointer, name);
        self.nodes[node].whole = true;
    }

    pub(super) fn child(&self, node: usize, key: &[u8]) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.iter().find(|(name, _)| name.as_bytes() == key).map(|(_, child)| *child)
    }

    pub(super) fn element(&self, node: usize, index: u32) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.iter().find(|(name, _)| name.parse() == Ok(index)).map(|(_, child)| *child)
    }
}
