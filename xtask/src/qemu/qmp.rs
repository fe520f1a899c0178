//! What QEMU itself says of a device of its guest, by its machine protocol (QMP).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Whether the driver in the guest has made the virtio device `id` use packed rings. It must be driven now.
///
/// QEMU 11.1 ends itself when it is asked for the features (`x-query-virtio-status`). But it shows the descriptors of split
/// rings only, and says so.
///
/// # Errors
/// In words.
pub fn is_packed(socket: &Path, id: &str) -> Result<bool, String> {
    let error = |error: std::io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(error)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    let lines = BufReader::new(stream.try_clone().map_err(error)?).lines();
    let receive = json!({ "path": format!("/machine/peripheral/{id}/virtio-backend"), "queue": 0 });
    // Nothing else is answered before the first.
    for command in [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": "x-query-virtio-queue-element", "arguments": receive }),
    ] {
        stream.write_all(format!("{command}\n").as_bytes()).map_err(error)?;
    }
    let mut answers = 0;
    for line in lines {
        let line = line.map_err(error)?;
        let said: Value = serde_json::from_str(&line).map_err(|error| format!("QMP: {error} in {line}"))?;
        answers += usize::from(said.get("return").is_some());
        match said["error"]["desc"].as_str() {
            Some("Packed ring not supported") => return Ok(true),
            Some(_) => return Err(format!("QMP: {line}")),
            None if answers == 2 => return Ok(false),
            None => {}
        }
    }
    Err("QMP: it ended without an answer".into())
}

const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of QEMU's answer to the second command.
    fn answered(answer: &Value) -> Result<bool, String> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let talk = format!("{{\"QMP\": {{}}}}\n{{\"return\": {{}}}}\n{{\"event\": \"X\"}}\n{answer}\n");
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(talk.as_bytes()).unwrap();
            let asked = BufReader::new(stream).lines().map_while(Result::ok).nth(1).unwrap();
            assert!(asked.contains("/machine/peripheral/nic6/virtio-backend"), "{asked}");
        });
        let found = is_packed(&socket, "nic6");
        qemu.join().unwrap();
        found
    }

    #[test]
    fn answers() {
        assert_eq!(answered(&json!({ "return": { "name": "virtio-net", "index": 0 } })), Ok(false));
        assert_eq!(answered(&json!({ "error": { "desc": "Packed ring not supported" } })), Ok(true));
        let idle = answered(&json!({ "error": { "desc": "Region caches not initialized" } })).unwrap_err();
        assert!(idle.contains("Region caches"), "{idle}");
    }
}
