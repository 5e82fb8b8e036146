//! A minimal HTTP client, and reading metrics with it.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A local address with a free port.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Status code and body of a GET.
pub fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    ask(address, &format!("GET {path}"), "")
}

/// Status code and body of a POST.
pub fn post(address: &str, path: &str, body: &str) -> Result<(u16, String), String> {
    ask(address, &format!("POST {path}"), body)
}

/// Uses HTTP/1.0, so that the response is not chunked and ends with the connection.
fn ask(address: &str, what: &str, body: &str) -> Result<(u16, String), String> {
    let length = body.len();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "{what} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| answer.clone())?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| head.to_owned())?;
    Ok((code, body.to_owned()))
}

/// The value of a metric, given its name and labels as in the exposition format.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

/// The value of a metric on an operator's `/metrics`; 0 if there is no such metric yet.
pub fn metric_of(address: &str, name: &str) -> f64 {
    let (code, text) = get(address, "/metrics").unwrap();
    assert_eq!(code, 200);
    metric(&text, name).unwrap_or_default()
}
