"""A Modbus TCP client on pymodbus.

Reads a list of questions as JSON from standard input, asks the server at
127.0.0.1 and the port given as argument, and prints the list of answers as
JSON. A question is {"slave", "table", "address", "type", "order", "count"} for
a value of that type, or of count bits, or {"slave", "write", "address"} for an
attempt to write. An answer is {"value"} or {"exception"}.
"""

import json
import sys

from pymodbus.client import ModbusTcpClient

CHUNK = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4}


def answer(client, q):
    at, slave = q["address"], q["slave"]
    if "write" in q:
        reply = {
            "coil": lambda: client.write_coil(at, True, device_id=slave),
            "coils": lambda: client.write_coils(at, [True, True], device_id=slave),
            "register": lambda: client.write_register(at, 1, device_id=slave),
            "registers": lambda: client.write_registers(at, [1, 2], device_id=slave),
            "mask": lambda: client.mask_write_register(address=at, device_id=slave),
        }[q["write"]]()
        return {"exception": reply.exception_code} if reply.isError() else {"value": "written"}
    read = {
        "holding": client.read_holding_registers,
        "input": client.read_input_registers,
        "coil": client.read_coils,
        "discrete": client.read_discrete_inputs,
    }[q["table"]]
    bits = q["table"] in ("coil", "discrete")
    count = q.get("count") or (1 if bits else CHUNK[q["type"]])
    reply = read(at, count=count, device_id=slave)
    if reply.isError():
        return {"exception": reply.exception_code}
    if bits:
        return {"value": "".join("1" if b else "0" for b in reply.bits[:count])}
    registers = reply.registers
    order = q.get("order") or "ABCD"
    if order in ("BADC", "DCBA"):
        registers = [(r & 0xFF) << 8 | r >> 8 for r in registers]
    kind = ModbusTcpClient.DATATYPE[q["type"].upper()]
    word_order = "little" if order in ("CDAB", "DCBA") else "big"
    return {"value": repr(ModbusTcpClient.convert_from_registers(registers, kind, word_order=word_order))}


def main():
    client = ModbusTcpClient("127.0.0.1", port=int(sys.argv[1]), timeout=10)
    if not client.connect():
        sys.exit("cannot connect")
    answers = [answer(client, q) for q in json.load(sys.stdin)]
    client.close()
    json.dump(answers, sys.stdout)


main()
