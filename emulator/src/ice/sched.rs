//! The transmit scheduler: a tree from the port to the queues. It shapes nothing here; only its form is kept.

use std::collections::BTreeMap;

use super::command::{Answer, Command, Refusal, read16, read32, write};

/// Layers, the port's and the queues' among them.
const LAYERS: u8 = 9;
/// The layer whose nodes have queues as children.
const GROUPS: u8 = LAYERS - 2;
/// Children that a node may have.
const SIBLINGS: usize = 8;
/// Nodes that the function may have in a layer.
const NODES: u16 = 512;
/// Profiles of rate limits of each kind.
const PROFILES: u16 = 64;
/// No node.
const NONE: u32 = u32::MAX;
/// The first node's number.
const FIRST: u32 = 0x10;

/// Kinds of element.
const ROOT: u8 = 1;
const CLASS: u8 = 2;
const GENERIC: u8 = 3;
const ENTRY: u8 = 4;
const LEAF: u8 = 5;

/// Bytes of an element with both numbers before it, of an element, and of the head of a group.
const NUMBERED: usize = 24;
const ELEMENT: usize = 16;
const GROUP: usize = 8;
/// Generic, committed and excess bandwidth: what an element has to say.
const SECTIONS: u8 = 7;

struct Node {
    parent: u32,
    layer: u8,
    element: [u8; ELEMENT],
}

/// The tree.
pub struct Scheduler {
    nodes: BTreeMap<u32, Node>,
    next: u32,
    profiles: u16,
}

impl Scheduler {
    /// What firmware makes: one node a layer from the port down to the groups, and no queue.
    pub fn new() -> Self {
        let mut scheduler = Self { nodes: BTreeMap::new(), next: FIRST, profiles: 0 };
        let mut parent = NONE;
        for layer in 0..=GROUPS {
            let kind = [ROOT, CLASS, ENTRY].get(usize::from(layer)).copied().unwrap_or(GENERIC);
            let mut element = [0; ELEMENT];
            (element[0], element[1]) = (kind, SECTIONS);
            parent = scheduler.insert(Node { parent, layer, element });
        }
        scheduler
    }

    fn insert(&mut self, node: Node) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.nodes.insert(id, node);
        id
    }

    fn children(&self, id: u32) -> usize {
        self.nodes.values().filter(|node| node.parent == id).count()
    }

    /// Puts a queue under a group; its number.
    pub fn add_queue(&mut self, group: u32, info: &[u8]) -> Result<u32, &'static str> {
        let mut element = *info.first_chunk().unwrap_or(&[0; ELEMENT]);
        match self.nodes.get(&group) {
            None => return Err("a queue's parent is no node"),
            Some(node) if node.layer != GROUPS => return Err("a queue's parent is not in the layer above the queues"),
            Some(_) if self.children(group) >= SIBLINGS => return Err("a group has its eight queues"),
            Some(_) if element[1] & SECTIONS != SECTIONS => {
                return Err("a queue's element lacks a section: generic, committed and excess bandwidth");
            }
            Some(_) => {}
        }
        element[0] = LEAF;
        Ok(self.insert(Node { parent: group, layer: LAYERS - 1, element }))
    }

    /// Takes a queue out.
    pub fn remove_queue(&mut self, id: u32) {
        self.nodes.remove(&id);
    }

    /// The parent of a node.
    pub fn parent(&self, id: u32) -> Option<u32> {
        self.nodes.get(&id).map(|node| node.parent)
    }

    /// Any of the scheduler's commands.
    pub fn command(&mut self, command: &mut Command) -> Answer {
        match command.opcode {
            0x0400 => self.default_topology(command),
            0x0401 => self.add(command),
            0x0403 => self.configure(command),
            0x0404 => self.query(command),
            0x0408 => self.move_nodes(command),
            0x0409 | 0x040A => self.suspend(command),
            0x040F => self.delete(command),
            0x0410 | 0x0415 => self.profiles(command),
            0x0412 => resources(command),
            _ => Err(Refusal::Enosys),
        }
    }

    /// 0x0400: the branch that firmware makes.
    fn default_topology(&self, command: &mut Command) -> Answer {
        if command.params[0] != 0 {
            return Err(Refusal::Einval);
        }
        let branch = Self::new();
        let mut reply = [NONE.to_le_bytes(), (branch.nodes.len() as u32).to_le_bytes()].concat();
        branch.nodes.iter().for_each(|(id, node)| reply.extend_from_slice(&numbered(*id, node)));
        reply.resize(GROUP + usize::from(LAYERS) * NUMBERED, 0);
        command.params[1] = 1;
        command.reply = reply;
        Ok(())
    }

    /// 0x0401: nodes are added under a parent, group by group.
    fn add(&mut self, command: &mut Command) -> Answer {
        let mut data = std::mem::take(&mut command.data);
        let (mut at, groups) = (0, command.get16(0));
        for _ in 0..groups {
            let (parent, count) = (read32(&data, at)?, usize::from(read16(&data, at + 4)?));
            at += GROUP;
            let layer = self.nodes.get(&parent).ok_or(Refusal::Enoent)?.layer + 1;
            if layer > GROUPS || count == 0 {
                return Err(Refusal::Einval);
            }
            if self.children(parent) + count > SIBLINGS {
                return Err(Refusal::Enospc);
            }
            for _ in 0..count {
                let element = *data.get(at + 8..).and_then(<[u8]>::first_chunk).ok_or(Refusal::Einval)?;
                let id = self.insert(Node { parent, layer, element });
                write(&mut data, at, &[parent.to_le_bytes(), id.to_le_bytes()].concat());
                at += NUMBERED;
            }
        }
        command.put16(2, groups);
        command.reply = data;
        Ok(())
    }

    /// 0x0403: elements are changed.
    fn configure(&mut self, command: &mut Command) -> Answer {
        let count = command.get16(0);
        for i in 0..usize::from(count) {
            let id = read32(&command.data, i * NUMBERED + 4)?;
            let element = command.data.get(i * NUMBERED + 8..).and_then(<[u8]>::first_chunk).ok_or(Refusal::Einval)?;
            self.nodes.get_mut(&id).ok_or(Refusal::Enoent)?.element = *element;
        }
        command.put16(2, count);
        command.reply.clone_from(&command.data);
        Ok(())
    }

    /// 0x0404: elements are told.
    fn query(&self, command: &mut Command) -> Answer {
        let count = command.get16(0);
        for i in 0..usize::from(count) {
            let id = read32(&command.data, i * NUMBERED + 4)?;
            let node = self.nodes.get(&id).ok_or(Refusal::Enoent)?;
            command.reply.extend_from_slice(&numbered(id, node));
        }
        command.put16(2, count);
        Ok(())
    }

    /// 0x0408: nodes get another parent in the same layer.
    fn move_nodes(&mut self, command: &mut Command) -> Answer {
        let data = &command.data;
        let (from, to, count) = (read32(data, 0)?, read32(data, 4)?, usize::from(read16(data, 8)?));
        let layer = self.nodes.get(&to).ok_or(Refusal::Enoent)?.layer;
        let moved = (0..count).map(|i| read32(data, 12 + 4 * i)).collect::<Result<Vec<_>, _>>()?;
        let fits = |id: &u32| self.nodes.get(id).is_some_and(|node| node.parent == from && node.layer == layer + 1);
        if !moved.iter().all(fits) {
            return Err(Refusal::Einval);
        }
        if self.children(to) + count > SIBLINGS {
            return Err(Refusal::Enospc);
        }
        for id in moved {
            self.nodes.entry(id).and_modify(|node| node.parent = to);
        }
        command.put16(2, command.get16(0));
        Ok(())
    }

    /// 0x0409, 0x040A: nodes rest, or go on; here they only have to exist.
    fn suspend(&self, command: &mut Command) -> Answer {
        let count = command.get16(0);
        for i in 0..usize::from(count) {
            self.nodes.get(&read32(&command.data, 4 * i)?).ok_or(Refusal::Enoent)?;
        }
        command.put16(2, count);
        Ok(())
    }

    /// 0x040F: nodes without children go.
    fn delete(&mut self, command: &mut Command) -> Answer {
        let (mut at, groups) = (0, command.get16(0));
        for _ in 0..groups {
            let (parent, count) = (read32(&command.data, at)?, usize::from(read16(&command.data, at + 4)?));
            at += GROUP;
            for _ in 0..count {
                let id = read32(&command.data, at)?;
                at += 4;
                match self.nodes.get(&id) {
                    None => return Err(Refusal::Enoent),
                    Some(node) if node.parent != parent || node.layer < 2 => return Err(Refusal::Einval),
                    Some(_) if self.children(id) > 0 => return Err(Refusal::Ebusy),
                    Some(_) => self.nodes.remove(&id),
                };
            }
        }
        command.put16(2, groups);
        Ok(())
    }

    /// 0x0410, 0x0415: profiles of rate limits get numbers, and lose them; nothing is limited.
    fn profiles(&mut self, command: &mut Command) -> Answer {
        const PROFILE: usize = 12;
        let count = command.get16(0);
        if command.data.len() < PROFILE * usize::from(count) {
            return Err(Refusal::Einval);
        }
        command.reply.clone_from(&command.data);
        if command.opcode == 0x0410 {
            for i in 0..usize::from(count) {
                write(&mut command.reply, i * PROFILE + 2, &(self.profiles % PROFILES).to_le_bytes());
                self.profiles = self.profiles.wrapping_add(1);
            }
        }
        command.put16(2, count);
        Ok(())
    }
}

/// 0x0412: layers, and what may be in each.
fn resources(command: &mut Command) -> Answer {
    const PROPERTIES: usize = 32;
    let mut reply = vec![0; PROPERTIES * (1 + usize::from(LAYERS))];
    write(&mut reply, 0, &[LAYERS, 0, LAYERS, 0, 0, 1, 1]);
    for layer in 0..LAYERS {
        let at = PROPERTIES * (1 + usize::from(layer));
        write(&mut reply, at, &[layer, 1]);
        let siblings = if layer < 2 { 1 } else { SIBLINGS as u16 };
        for (place, value) in [(2, NODES), (4, NODES), (10, siblings), (12, PROFILES), (14, PROFILES), (16, PROFILES)] {
            write(&mut reply, at + place, &value.to_le_bytes());
        }
    }
    command.reply = reply;
    Ok(())
}

fn numbered(id: u32, node: &Node) -> [u8; NUMBERED] {
    let mut bytes = [0; NUMBERED];
    write(&mut bytes, 0, &node.parent.to_le_bytes());
    write(&mut bytes, 4, &id.to_le_bytes());
    write(&mut bytes, 8, &node.element);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(opcode: u16, count: u16, data: Vec<u8>) -> Command {
        let mut command = Command { opcode, data, room: 4096, ..Command::default() };
        command.put16(0, count);
        command
    }

    fn add(parent: u32, count: u16) -> Vec<u8> {
        let mut data = [&parent.to_le_bytes()[..], &count.to_le_bytes(), &[0; 2]].concat();
        for _ in 0..count {
            data.extend([[0; 8], [GENERIC, SECTIONS, 0, 0, 0, 0, 4, 0]].concat());
            data.extend([0; 8]);
        }
        data
    }

    fn delete(parent: u32, id: u32) -> Vec<u8> {
        [&parent.to_le_bytes()[..], &[1, 0, 0, 0], &id.to_le_bytes()].concat()
    }

    #[test]
    fn a_branch_is_grown_and_taken_down() {
        let mut scheduler = Scheduler::new();
        let mut topology = command(0x0400, 0, Vec::new());
        scheduler.command(&mut topology).unwrap();
        assert_eq!((topology.params[1], read16(&topology.reply, 4)), (1, Ok(8)));
        let class = read32(&topology.reply, GROUP + NUMBERED + 4).unwrap();
        let mut parent = class;
        for layer in 2..=GROUPS {
            let mut grown = command(0x0401, 1, add(parent, 1));
            assert_eq!((scheduler.command(&mut grown), grown.get16(2)), (Ok(()), 1), "{layer}");
            let id = read32(&grown.reply, GROUP + 4).unwrap();
            let mut asked = command(0x0404, 1, [[0; 4], id.to_le_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat());
            scheduler.command(&mut asked).unwrap();
            assert_eq!((read32(&asked.reply, 0), asked.reply[8]), (Ok(parent), GENERIC));
            parent = id;
        }
        assert_eq!(
            scheduler.command(&mut command(0x0401, 1, add(parent, 1))),
            Err(Refusal::Einval),
            "below the groups"
        );
        let info = [0, SECTIONS, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0];
        let queues: Vec<_> = (0..SIBLINGS).map(|_| scheduler.add_queue(parent, &info).unwrap()).collect();
        assert!(scheduler.add_queue(parent, &info).is_err() && scheduler.add_queue(class, &info).is_err());
        let above = scheduler.parent(parent).unwrap();
        assert_eq!(scheduler.command(&mut command(0x040F, 1, delete(above, parent))), Err(Refusal::Ebusy));
        queues.into_iter().for_each(|queue| scheduler.remove_queue(queue));
        assert_eq!(scheduler.command(&mut command(0x040F, 1, delete(class, parent))), Err(Refusal::Einval));
        assert_eq!(scheduler.command(&mut command(0x040F, 1, delete(above, parent))), Ok(()));
        assert_eq!(scheduler.command(&mut command(0x040F, 1, delete(above, parent))), Err(Refusal::Enoent));
    }

    #[test]
    fn nodes_move_within_their_layer() {
        let mut scheduler = Scheduler::new();
        let mut two = command(0x0401, 1, add(FIRST + 1, 2));
        scheduler.command(&mut two).unwrap();
        let (a, b) = (read32(&two.reply, GROUP + 4).unwrap(), read32(&two.reply, GROUP + NUMBERED + 4).unwrap());
        let mut child = command(0x0401, 1, add(a, 1));
        scheduler.command(&mut child).unwrap();
        let id = read32(&child.reply, GROUP + 4).unwrap();
        let data =
            |from: u32, to: u32| [from, to, 1, id].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(scheduler.command(&mut command(0x0408, 1, data(b, a))), Err(Refusal::Einval));
        assert_eq!(scheduler.command(&mut command(0x0408, 1, data(a, b))), Ok(()));
        assert_eq!(scheduler.parent(id), Some(b));
        assert_eq!(scheduler.command(&mut command(0x0401, 1, add(b, 8))), Err(Refusal::Enospc));
    }

    #[test]
    fn layers_are_told() {
        let mut asked = command(0x0412, 0, Vec::new());
        Scheduler::new().command(&mut asked).unwrap();
        assert_eq!((read16(&asked.reply, 2), asked.reply.len()), (Ok(9), 320));
        assert_eq!((asked.reply[32 * 9], read16(&asked.reply, 32 * 9 + 10)), (8, Ok(8)));
    }
}
