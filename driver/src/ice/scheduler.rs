//! The tree that transmit queues hang in (Linux `ice_sched.c`).
//!
//! Nodes lie in layers: the port's root, its traffic class, then layers that software fills from its *entry point* down to
//! the queue groups; queues are the leaves. At first the firmware's default branch is there. It is taken away below the
//! entry point, and a branch for this driver's queues put in its place. Pure, but for who sends the commands.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::context::TX_CONTEXT;

/// What the firmware's tree may look like (0x0412).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Layers, queues included.
    pub layers: usize,
    /// Children that a node of each layer may have.
    pub children: [u16; LAYERS],
}

/// A node, from the default branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub id: u32,
    pub parent: u32,
    pub kind: u8,
}

/// A branch to build: how many nodes in each layer below `under`, all of them children of the first of the layer above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Nodes of the default branch to be deleted, in this order.
    pub delete: Vec<Node>,
    pub under: u32,
    pub layers: Vec<u16>,
    /// Queues of one group, the last layer's nodes.
    pub group: u16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LimitsHead {
    physical_layers: U16,
    layers: U16,
    reserved: [u8; 28],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LayerLimits {
    layer: u8,
    chunk: u8,
    device_nodes: U16,
    function_nodes: U16,
    reserved0: [u8; 4],
    siblings: U16,
    reserved1: [u8; 20],
}

/// The element part of a node or queue.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Settings {
    kind: u8,
    sections: u8,
    generic: u8,
    flags: u8,
    committed_profile: U16,
    committed_weight: U16,
    excess_profile: U16,
    excess_weight: U16,
    shared: U16,
    reserved: U16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Element {
    parent: U32,
    id: U32,
    settings: Settings,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    parent: U32,
    count: U16,
    reserved: U16,
}

impl Settings {
    /// No limit, and an equal share.
    fn fair(kind: u8) -> Self {
        let mut settings = Self::new_zeroed();
        settings.kind = kind;
        settings.sections = SECTIONS;
        settings.committed_weight = WEIGHT.into();
        settings.excess_weight = WEIGHT.into();
        settings
    }
}

impl Limits {
    /// Reads the answer of 0x0412.
    pub(super) fn parse(buffer: &[u8]) -> Result<Self, String> {
        let short = || format!("{} bytes of scheduler limits", buffer.len());
        let (head, rest) = LimitsHead::ref_from_prefix(buffer).map_err(|_| short())?;
        let layers = usize::from(head.layers.get());
        if !(SHALLOWEST..=LAYERS).contains(&layers) {
            return Err(format!("a scheduler of {layers} layers"));
        }
        let (all, _) = <[LayerLimits]>::ref_from_prefix_with_elems(rest, layers).map_err(|_| short())?;
        let mut children = [0; LAYERS];
        // How many siblings a layer's nodes may be is how many children the layer above may have.
        for (above, below) in all.iter().skip(1).enumerate() {
            children[above] = below.siblings.get();
        }
        Ok(Self { layers, children })
    }

    /// The layer of queue groups: the one above the queues.
    fn group_layer(&self) -> usize {
        self.layers - 2
    }

    /// The layer of VSIs; above it one node is enough.
    fn vsi_layer(&self, entry: usize) -> usize {
        match self.layers {
            9 => 5,
            5 => 3,
            _ => entry,
        }
    }
}

/// Reads the first branch of the default topology (0x0400), root first.
pub(super) fn default_branch(buffer: &[u8], branches: u8) -> Result<Vec<Node>, String> {
    let short = || format!("{} bytes of topology", buffer.len());
    if !(1..=8).contains(&branches) {
        return Err(format!("{branches} branches of topology"));
    }
    let (head, rest) = Head::ref_from_prefix(buffer).map_err(|_| short())?;
    let count = usize::from(head.count.get());
    if !(2..=LAYERS).contains(&count) {
        return Err(format!("a default branch of {count} nodes"));
    }
    let (elements, _) = <[Element]>::ref_from_prefix_with_elems(rest, count).map_err(|_| short())?;
    let node =
        |element: &Element| Node { id: element.id.get(), parent: element.parent.get(), kind: element.settings.kind };
    Ok(elements.iter().map(node).collect())
}

/// Where and how to hang `queues` queues into the tree. There may be fewer places than asked for:
/// [`Plan::queues`].
pub(super) fn plan(limits: &Limits, branch: &[Node], queues: u16) -> Result<Plan, String> {
    let class = branch.iter().position(|node| node.kind == KIND_CLASS).ok_or("a default branch without a class")?;
    let entry = branch.iter().position(|node| node.kind == KIND_ENTRY).unwrap_or(class + 1);
    let (vsi, groups) = (limits.vsi_layer(entry), limits.group_layer());
    if entry == 0 || entry > groups || entry > branch.len() {
        return Err(format!("an entry point in layer {entry} of {}", limits.layers));
    }
    let places = |layer: usize| limits.children[layer].max(1);
    // From the queues up: as many nodes as it takes, below the VSI; one at and above it.
    let mut layers = vec![1; groups + 1 - entry];
    let mut needed = queues.div_ceil(places(groups));
    for layer in (entry..=groups).rev() {
        if layer <= vsi.max(entry) {
            break;
        }
        layers[layer - entry] = needed.min(places(layer - 1));
        needed = layers[layer - entry].div_ceil(places(layer - 1));
    }
    let below = branch.iter().skip(entry).filter(|node| node.kind != KIND_CLASS && node.kind != KIND_ROOT);
    let delete = below.rev().copied().collect();
    Ok(Plan { delete, under: branch[entry - 1].id, layers, group: places(groups) })
}

impl Plan {
    /// Queues that there are places for.
    pub(super) fn queues(&self) -> u16 {
        self.layers.last().map_or(0, |groups| groups.saturating_mul(self.group))
    }
}

/// The buffer of "add scheduler elements": `count` nodes below `parent`.
pub(super) fn add_nodes(parent: u32, count: u16) -> Vec<u8> {
    let head = Head { parent: parent.into(), count: count.into(), reserved: 0.into() };
    let settings = Settings::fair(KIND_GENERIC);
    let node = Element { parent: parent.into(), id: 0.into(), settings };
    [head.as_bytes(), &node.as_bytes().repeat(count.into())].concat()
}

/// Reads the numbers that the firmware gave to the nodes.
pub(super) fn added_nodes(buffer: &[u8], count: u16) -> Result<Vec<u32>, String> {
    let short = || format!("{} bytes for {count} nodes", buffer.len());
    let (_, rest) = Head::ref_from_prefix(buffer).map_err(|_| short())?;
    let (nodes, _) = <[Element]>::ref_from_prefix_with_elems(rest, count.into()).map_err(|_| short())?;
    Ok(nodes.iter().map(|node| node.id.get()).collect())
}

/// The buffer of "delete scheduler elements".
pub(super) fn delete_node(node: Node) -> Vec<u8> {
    let head = Head { parent: node.parent.into(), count: 1.into(), reserved: 0.into() };
    [head.as_bytes(), &node.id.to_le_bytes()].concat()
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AddQueue {
    parent: U32,
    count: u8,
    reserved0: [u8; 3],
    queue: U16,
    reserved1: U16,
    id: U32,
    context: [u8; TX_CONTEXT],
    reserved2: U16,
    settings: Settings,
}

/// The buffer of "add TX queues": one queue below a group.
pub(super) fn add_queue(parent: u32, queue: u16, context: [u8; TX_CONTEXT]) -> Vec<u8> {
    let mut all = AddQueue::new_zeroed();
    all.parent = parent.into();
    all.count = 1;
    all.queue = queue.into();
    all.context = context;
    all.settings = Settings::fair(0);
    all.as_bytes().to_vec()
}

/// The buffer of "disable TX queues": one queue below a group.
pub(super) fn disable_queue(parent: u32, queue: u16) -> [u8; 8] {
    let [a, b, c, d] = parent.to_le_bytes();
    let [e, f] = queue.to_le_bytes();
    [a, b, c, d, 1, 0, e, f]
}

/// Layers of the deepest tree, and of the shallowest in which queues have a group.
const LAYERS: usize = 9;
const SHALLOWEST: usize = 4;
const KIND_ROOT: u8 = 1;
const KIND_CLASS: u8 = 2;
const KIND_GENERIC: u8 = 3;
const KIND_ENTRY: u8 = 4;
/// Generic, committed and excess rates are valid.
const SECTIONS: u8 = 7;
/// The default weight.
const WEIGHT: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { layers: 9, children: [8, 8, 8, 8, 8, 8, 8, 8, 0] };

    fn branch(kinds: &[u8]) -> Vec<Node> {
        let node = |(index, kind): (usize, &u8)| Node { id: index as u32 + 10, parent: index as u32 + 9, kind: *kind };
        kinds.iter().enumerate().map(node).collect()
    }

    #[test]
    fn a_branch_of_nine_layers() {
        // Root, class, entry point at layer 2, and the default down to its queue.
        let branch = branch(&[1, 2, 4, 3, 3, 3, 3, 3, 5]);
        let one = plan(&LIMITS, &branch, 1).unwrap();
        assert_eq!((one.under, &one.layers[..], one.group, one.queues()), (11, &[1; 6][..], 8, 8));
        let deleted: Vec<u32> = one.delete.iter().map(|node| node.id).collect();
        assert_eq!(deleted, [18, 17, 16, 15, 14, 13, 12], "from the queue up to the entry point");
        let many = plan(&LIMITS, &branch, 17).unwrap();
        assert_eq!((&many.layers[..], many.queues()), (&[1, 1, 1, 1, 1, 3][..], 24));
    }

    #[test]
    fn other_trees() {
        let deep = plan(&LIMITS, &branch(&[1, 2, 3, 3, 4]), 3).unwrap();
        assert_eq!((deep.under, deep.layers.len()), (13, 4));
        let shallow = Limits { layers: 5, children: [8, 8, 8, 16, 0, 0, 0, 0, 0] };
        let flat = plan(&shallow, &branch(&[1, 2, 4]), 64).unwrap();
        assert_eq!((&flat.layers[..], flat.queues()), (&[1, 1][..], 16), "no more than one group");
        assert!(plan(&LIMITS, &branch(&[1, 3]), 1).unwrap_err().contains("without a class"));
        assert!(plan(&shallow, &branch(&[1, 2, 3, 3, 4]), 1).unwrap_err().contains("entry point in layer 4"));
    }

    /// Goldens worked out by hand from the commands' layouts.
    #[test]
    fn buffers() {
        let nodes = add_nodes(0x0102, 2);
        let node = [2, 1, 0, 0, 0, 0, 0, 0, 3, 7, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(nodes, [&[2, 1, 0, 0, 2, 0, 0, 0][..], &node, &node].concat());
        assert!(added_nodes(&nodes[..32], 2).is_err());
        assert_eq!(added_nodes(&nodes, 2), Ok(vec![0, 0]));
        let node = Node { id: 0x20, parent: 0x10, kind: 3 };
        assert_eq!(delete_node(node), [0x10, 0, 0, 0, 1, 0, 0, 0, 0x20, 0, 0, 0]);
        let queue = add_queue(0x0102, 3, [9; TX_CONTEXT]);
        assert_eq!(queue.len(), 8 + 48);
        assert_eq!(queue[..16], [2, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(queue[16..40], [[9; 22].as_slice(), &[0, 0]].concat());
        assert_eq!(queue[40..56], [0, 7, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(disable_queue(0x0102, 3), [2, 1, 0, 0, 1, 0, 3, 0]);
    }

    #[test]
    fn limits_are_read() {
        let mut bytes = vec![0; 32 + 9 * 32];
        bytes[2] = 9;
        for layer in 0..9 {
            bytes[32 + layer * 32 + 10] = layer as u8 * 2;
        }
        let limits = Limits::parse(&bytes).unwrap();
        assert_eq!(limits.children, [2, 4, 6, 8, 10, 12, 14, 16, 0]);
        bytes[2] = 10;
        assert!(Limits::parse(&bytes).unwrap_err().contains("10 layers"));
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), branches: u8, layers in 0u8..12, count in 0u8..12, queues in 1u16..300,
        ) {
            if bytes.len() > 6 {
                (bytes[2], bytes[3], bytes[4], bytes[5]) = (layers, 0, count, 0);
            }
            let branch = default_branch(&bytes, branches % 9);
            if let (Ok(limits), Ok(branch)) = (Limits::parse(&bytes), &branch)
                && let Ok(plan) = plan(&limits, branch, queues)
            {
                prop_assert!(plan.queues() > 0 && plan.layers.len() <= LAYERS);
            }
            let _ = added_nodes(&bytes, queues);
        }
    }
}
