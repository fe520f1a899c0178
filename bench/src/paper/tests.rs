use std::ops::Range;

use stillwire_dma::{Mapping, Payload, RegisterSpace, Segment};
use stillwire_driver::{Config, Frame as TxFrame, Nic, Offload, Posted};

use super::*;

/// Bytes of a buffer that can be sent.
struct Bytes(Arc<Mapping>, usize);

impl Payload for Bytes {
    fn len(&self) -> usize {
        self.1
    }

    fn segments(&self, range: Range<usize>, each: impl FnMut(Segment)) {
        self.0.segment(range).into_iter().for_each(each);
    }
}

fn open(paper: &Arc<PaperNic>) -> Nic {
    let nic = Nic::open(paper.function(), Config { tx_ring: 64, rx_ring: 64, ..Config::default() }).unwrap();
    assert!(nic.link().unwrap().up);
    assert_eq!(nic.mac().0, MAC);
    nic
}

#[test]
fn counts_what_the_driver_sends() {
    let paper = PaperNic::new().unwrap();
    let function = paper.function();
    let nic = open(&paper);
    let mut tx = nic.tx_queue::<Bytes>().unwrap();
    let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
    let page = Arc::new(function.iommu().map(&memory, Access::ReadOnly).unwrap());
    let header = crate::udp_header(1000);
    for round in 1..=100 {
        assert!(matches!(tx.post(TxFrame::new(&[0xff; 60])), Ok(Posted::Queued)));
        for _ in 0..2 {
            let frame = TxFrame::new(&header).offload(Offload::UDP_V4).payload(Bytes(page.clone(), 1000));
            assert!(matches!(tx.post(frame), Ok(Posted::Queued)));
        }
        paper.step().unwrap();
        assert_eq!(paper.transmitted().frames, 3 * (round - 1), "nothing before the doorbell");
        assert_eq!(tx.reclaim(drop), 0);
        tx.publish();
        paper.step().unwrap();
        let mut back = 0;
        tx.reclaim(|_| back += 1);
        assert_eq!((back, tx.free()), (2, 63), "one report gives all of the batch back");
        // A context once; it stays in force.
        let expect = Counts {
            frames: 3 * round,
            bytes: (60 + 2 * 1042) * round,
            descriptors: 5 * round + 1,
            reports: round,
            doorbells: round,
        };
        assert_eq!(paper.transmitted(), expect);
    }
}

#[test]
fn frames_arrive_where_there_are_buffers() {
    let paper = PaperNic::new().unwrap();
    let nic = open(&paper);
    let mut rx = nic.rx_queue().unwrap();
    assert_eq!(paper.receive(100, &RECEIVED).unwrap(), 63, "one descriptor of the ring stays unused");
    assert_eq!(paper.receive(1, &RECEIVED).unwrap(), 0);
    let mut bytes = Vec::new();
    for round in 0..100 {
        let budget = if round == 0 { 64 } else { 40 };
        let found = rx.poll(budget, |frame| {
            frame.copy_to(&mut bytes);
            assert_eq!(bytes, RECEIVED);
        });
        assert_eq!(found, if round == 0 { 63 } else { 40 });
        assert_eq!(paper.receive(40, &RECEIVED).unwrap(), 40, "the buffers were given back");
    }
    let frames = 63 + 100 * 40;
    let expect = Counts { frames, bytes: 60 * frames, descriptors: frames, reports: frames, doorbells: 101 };
    assert_eq!(paper.received(), expect);
}

#[test]
fn a_large_frame_lies_in_several_buffers() {
    let paper = PaperNic::new().unwrap();
    let nic = open(&paper);
    let mut rx = nic.rx_queue().unwrap();
    let frame: Vec<u8> = (0..9014).map(|at| (at / 7) as u8).collect();
    assert_eq!(paper.receive(100, &frame).unwrap(), 12, "63 buffers, five a frame");
    let mut bytes = Vec::new();
    let found = rx.poll(100, |received| {
        received.copy_to(&mut bytes);
        assert!(bytes == frame);
    });
    assert_eq!((found, paper.received().descriptors), (12, 60));
}

#[test]
fn a_stopped_nic_is_quiet_and_says_so() {
    let paper = PaperNic::new().unwrap();
    let nic = open(&paper);
    let mut tx = nic.tx_queue::<Bytes>().unwrap();
    assert!(matches!(tx.post(TxFrame::new(&[0xff; 60])), Ok(Posted::Queued)));
    tx.publish();
    nic.stop().expect("proof");
    assert_eq!(paper.get(STATUS) & STATUS_GIO, 0);
    assert_eq!(paper.lock().config[COMMAND] & COMMAND_BUS_MASTER, 0);
    paper.step().unwrap();
    assert_eq!(paper.transmitted(), Counts::default());
    drop(tx);
    drop(nic);
    assert!(paper.lock().mappings.is_empty());
    // And again from the beginning.
    let nic = open(&paper);
    let mut tx = nic.tx_queue::<Bytes>().unwrap();
    assert!(matches!(tx.post(TxFrame::new(&[0xff; 60])), Ok(Posted::Queued)));
    tx.publish();
    paper.step().unwrap();
    assert_eq!(paper.transmitted().frames, 1);
}

/// A transmit queue without a driver: 8 descriptors at the start of a page.
struct Bare {
    paper: Arc<PaperNic>,
    registers: RegisterSpace,
    memory: SharedMemory,
    iova: u64,
    _mapping: Mapping,
}

impl Bare {
    fn new() -> Self {
        let paper = PaperNic::new().unwrap();
        let function = paper.function();
        function.set_bus_master(true).unwrap();
        let registers = function.registers(0, BAR0_LEN as u64).unwrap();
        let memory = SharedMemory::new("test", 4096, HugePages::Never).unwrap();
        let mapping = function.iommu().map(&memory, Access::ReadWrite).unwrap();
        let iova = mapping.iova_of(0).unwrap().get();
        registers.write(DMATXCTL, DMATXCTL_TE);
        registers.write(ring::TX, iova as u32);
        registers.write(ring::TX + 4, (iova >> 32) as u32);
        registers.write(ring::TX + 8, 128);
        registers.write(ring::TX + 0x28, 1 << 25);
        Self { paper, registers, memory, iova, _mapping: mapping }
    }

    /// Shows descriptors; those with an address get it counted from the page's start.
    fn show(&self, descriptors: &[[u64; 2]]) -> Result<Counts> {
        for (at, [low, high]) in descriptors.iter().enumerate() {
            let data = high >> 20 & 0xf == 3;
            self.memory.word64(16 * at).store(if data { self.iova + low } else { *low }, Ordering::Relaxed);
            self.memory.word64(16 * at + 8).store(*high, Ordering::Relaxed);
        }
        self.registers.write(ring::TX + 0x18, descriptors.len() as u32);
        self.paper.step()?;
        Ok(self.paper.transmitted())
    }
}

// Worked out by hand from the datasheet's tables.
const DATA: u64 = 3 << 20 | 1 << 25 | 1 << 29;
const EOP: u64 = 1 << 24;
const RS: u64 = 1 << 27;
const IP_AND_TCP: u64 = 3 << 40;
const SEGMENT: u64 = 1 << 31;
const TCP_V4: [u64; 2] = [20 | 14 << 9, 1 << 10 | 1 << 11 | 2 << 20 | 1 << 29 | 20 << 40];
const CUT_TCP_V4: [u64; 2] = [TCP_V4[0], TCP_V4[1] | 1000 << 48];

fn payload_len(bytes: u64) -> u64 {
    bytes << 46
}

#[test]
fn done_is_said_where_it_was_asked_for() {
    let bare = Bare::new();
    let frame = [DATA | IP_AND_TCP | payload_len(1514) | 54, DATA | EOP | 1460];
    let shown = [TCP_V4, [0, frame[0]], [54, frame[1]], [0, frame[0]], [54, frame[1] | RS]];
    let counts = bare.show(&shown).unwrap();
    assert_eq!(counts, Counts { frames: 2, bytes: 3028, descriptors: 5, reports: 1, doorbells: 1 });
    for (at, descriptor) in shown.iter().enumerate() {
        let high = bare.memory.word64(16 * at + 8).load(Ordering::Relaxed);
        assert_eq!(high >> 32 & 1 == 1, at == 4, "descriptor {at}");
        assert_eq!(high & !(1 << 32), descriptor[1], "the rest is left as it was");
    }
    assert_eq!(bare.registers.read(ring::TX + 0x10), 5, "head");
}

#[test]
fn nothing_moves_without_leave() {
    let bare = Bare::new();
    let frame = [[0, DATA | EOP | RS | payload_len(60) | 60]];
    bare.registers.write(CTRL, CTRL_GIO_DIS);
    assert_eq!(bare.show(&frame).unwrap().frames, 0, "master disable");
    bare.registers.write(CTRL, 0);
    bare.paper.function().set_bus_master(false).unwrap();
    assert_eq!(bare.show(&frame).unwrap().frames, 0, "no bus mastering");
    bare.paper.function().set_bus_master(true).unwrap();
    bare.registers.write(DMATXCTL, 0);
    assert_eq!(bare.show(&frame).unwrap().frames, 0, "transmit DMA off");
    bare.registers.write(DMATXCTL, DMATXCTL_TE);
    bare.registers.write(ring::TX + 0x28, 0);
    assert_eq!(bare.show(&frame).unwrap().frames, 0, "queue off");
    bare.registers.write(ring::TX + 0x28, 1 << 25);
    assert_eq!(bare.show(&frame).unwrap().frames, 1);
}

#[test]
fn segments_are_counted_as_the_frames_that_they_become() {
    // 54 bytes of headers and 2500 of payload, cut into 1000, 1000 and 500.
    let parts = [DATA | SEGMENT | IP_AND_TCP | payload_len(2500) | 54, DATA | 2000, DATA | EOP | RS | 500];
    let shown = [CUT_TCP_V4, [0, parts[0]], [100, parts[1]], [0, parts[2]]];
    let counts = Bare::new().show(&shown).unwrap();
    assert_eq!((counts.frames, counts.bytes, counts.descriptors, counts.reports), (3, 2500 + 3 * 54, 4, 1));
}

#[test]
fn what_cannot_be_sent_is_an_error() {
    let whole = DATA | EOP | RS;
    let cases: &[(&str, &[[u64; 2]])] = &[
        ("PAYLEN", &[[0, whole | payload_len(61) | 60]]),
        ("PAYLEN", &[[0, DATA | payload_len(1514) | 54], [0, whole | 1459]]),
        ("within a frame", &[[0, DATA | payload_len(1514) | 54]]),
        ("DEXT", &[[0, (whole | payload_len(60) | 60) & !(1 << 29)]]),
        ("DTYP", &[[0, whole ^ 1 << 20 ^ 1 << 21 | payload_len(60) | 60]]),
        ("IFCS", &[[0, (whole | payload_len(60) | 60) & !(1 << 25)]]),
        ("does not say how", &[[0, whole | SEGMENT | payload_len(60) | 60]]),
        ("does not say how", &[TCP_V4, [0, whole | SEGMENT | IP_AND_TCP | payload_len(6) | 60]]),
        ("does not say how", &[CUT_TCP_V4, [0, whole | SEGMENT | payload_len(6) | 60]]),
        ("PAYLEN", &[CUT_TCP_V4, [0, whole | SEGMENT | IP_AND_TCP | payload_len(60) | 60]]),
        ("segments of a length", &[CUT_TCP_V4, [0, whole | SEGMENT | IP_AND_TCP | 54]]),
        ("second time", &[[0, whole | 1 << 32 | payload_len(60) | 60]]),
        ("no bytes", &[[0, DATA | payload_len(60) | 60], [0, whole]]),
        ("length", &[[0, whole | payload_len(13) | 13]]),
        ("length", &[[0, whole | payload_len(10_000) | 10_000]]),
        ("not mapped", &[[4090, whole | payload_len(60) | 60]]),
        ("not mapped", &[[1 << 40, whole | payload_len(60) | 60]]),
        ("context does not", &[[0, whole | IP_AND_TCP | payload_len(1514) | 1514]]),
        ("context does not", &[TCP_V4, [0, whole | IP_AND_TCP | payload_len(54) | 54]]),
        ("no frame has", &[[14 << 9, TCP_V4[1]]]),
        ("no frame has", &[[20 | 13 << 9, TCP_V4[1]]]),
        ("within a frame", &[[0, DATA | payload_len(1514) | 54], TCP_V4]),
    ];
    for (what, shown) in cases {
        let error = Bare::new().show(shown).expect_err(what).to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_ring_outside_of_memory_is_an_error() {
    let bare = Bare::new();
    bare.registers.write(ring::TX + 8, 8192);
    bare.registers.write(ring::TX + 0x18, 1);
    assert!(bare.paper.step().unwrap_err().to_string().contains("map all of it"));
    bare.registers.write(ring::TX + 8, 128);
    bare.registers.write(ring::TX + 0x18, 8);
    assert!(bare.paper.step().unwrap_err().to_string().contains("below 8"));
}

#[test]
fn forty_descriptors_and_no_more() {
    let frame = |count: u64| -> Vec<[u64; 2]> {
        let mut all = vec![[0, DATA | 20]; count as usize];
        all[0][1] |= payload_len(20 * count);
        all[count as usize - 1][1] |= EOP | RS;
        all
    };
    let show = |count| {
        let bare = Bare::new();
        bare.registers.write(ring::TX + 8, 64 * 16);
        bare.show(&frame(count))
    };
    assert_eq!(show(40).unwrap().frames, 1);
    assert!(show(41).unwrap_err().to_string().contains("one too many"));
}
