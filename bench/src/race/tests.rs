use super::*;

/// Every work on both devices: what the device counted is what was asked for, and a little more that the works promise.
#[test]
fn all_works_do_what_they_are_asked() {
    let mut racer = Racer::default();
    for device in ["paper", "model"] {
        for (name, work) in WORKS {
            let line = format!("run {name} ring=128 frames=320 burst=32 cache_mib=2 device={device}");
            let answer = racer.run(&Ask::parse(&line).unwrap()).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!((answer.work, answer.frames), (name, 320), "{line}");
            let (len, descriptors, doorbells) = match work {
                Work::Hold | Work::HoldRun | Work::Atomics => (0, 0, 0),
                Work::Tx60 | Work::Rx60 => (60, 1, 10),
                Work::TxPage | Work::TxPageEach => (1514, 2, 10),
                Work::Sender => (1502, 2, 10),
                // A context, a header, and pieces of at most 16 KiB, for each run of 32 frames.
                Work::SenderSegmented => {
                    assert_eq!((answer.bytes, answer.doorbells), (320 * 1502, 10), "{line}");
                    assert!((10 * 4..=10 * 7).contains(&answer.descriptors), "{line}: {answer:?}");
                    continue;
                }
                Work::SenderDigest => (1546, 2, 10),
            };
            assert_eq!((answer.bytes, answer.doorbells), (320 * len, doorbells), "{line}");
            // A context at the most, and a payload that lies on both sides of a folio's end now and then.
            assert!((320 * descriptors..=320 * descriptors + 4).contains(&answer.descriptors), "{line}: {answer:?}");
            assert!(answer.reports >= doorbells && (work == Work::Rx60 || answer.reports <= 30), "{line}: {answer:?}");
            assert!(answer.ns > 0);
        }
    }
}

#[test]
fn rings_and_payloads_of_all_sizes() {
    let mut racer = Racer::default();
    for line in [
        "run tx-page ring=64 frames=16 burst=16 cache_mib=2 payload=6",
        "run tx-page ring=4096 frames=256 burst=128 cache_mib=2",
        "run sender ring=512 frames=176 burst=88 cache_mib=2",
        "run tx-page-each ring=512 frames=64 cache_mib=2 payload=8960",
        "run sender-segmented ring=512 frames=180 burst=90 cache_mib=2",
        "run sender-segmented ring=512 frames=88 burst=44 cache_mib=2",
        "run sender-segmented ring=512 frames=45 burst=45 cache_mib=2 device=model",
        "run sender-digest ring=512 frames=64 cache_mib=2 payload=1428",
    ] {
        racer.run(&Ask::parse(line).unwrap()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let full = racer.run(&Ask::parse("run tx-page ring=64 frames=32 cache_mib=2").unwrap());
    assert!(matches!(full, Err(Error::Full { ring: 64, burst: 32 })), "{full:?}");
    // And it goes on.
    racer.run(&Ask::parse("run tx60 ring=64 frames=32 cache_mib=2").unwrap()).unwrap();
}

#[test]
fn questions() {
    let ask = Ask::parse("run tx-page ring=1024 frames=64 burst=16 cache_mib=4096 payload=18 device=model").unwrap();
    let expect = Ask {
        work: Work::TxPage,
        ring: 1024,
        frames: 64,
        burst: 16,
        cache_mib: 4096,
        huge: false,
        device: Kind::Model,
        payload: 18,
    };
    assert_eq!(ask, expect);
    for (line, why) in [
        ("", "begin with run"),
        ("walk tx60", "begin with run"),
        ("run", "no work ''"),
        ("run tx61", "no work 'tx61'"),
        ("run tx60 ring", "not key=value"),
        ("run tx60 ring=x", "no size of a ring"),
        ("run tx60 frames=-1", "no number"),
        ("run tx60 mib=1", "no key 'mib'"),
        ("run tx60 device=card", "neither"),
        ("run tx60 pages=1GiB", "neither"),
        ("run tx60 frames=33", "no bursts of 32"),
        ("run tx60 burst=0", "no bursts of 0"),
        ("run hold-run frames=8 burst=8", "no runs of 16"),
        ("run tx-page payload=0", "not within"),
        ("run tx-page cache_mib=0", "no burst"),
    ] {
        let error = Ask::parse(line).expect_err(line).to_string();
        assert!(error.contains(why), "{line}: {error}");
    }
}

#[test]
fn a_line_in_is_a_line_out() {
    let mut out = Vec::new();
    let asks = "run hold frames=32\nrubbish\nrun tx60 frames=64\n";
    serve(asks.as_bytes(), &mut out, |ask| match ask.work {
        Work::Hold => Ok(Answer::new(ask, 7, crate::paper::Counts { frames: 32, ..Default::default() }, 0)),
        _ => Err(Error::Counts { work: ask.name(), what: "frames", found: 63, asked: 64 }),
    })
    .unwrap();
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["work"], &lines[0]["ns"]), (3, &"hold".into(), &7.into()));
    assert!(lines[1]["error"].as_str().unwrap().contains("rubbish"));
    assert!(lines[2]["error"].as_str().unwrap().contains("63 frames"));
}
