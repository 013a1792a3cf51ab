# SPDX-License-Identifier: Apache-2.0
def test_a_call_reports_what_was_since_the_last_one(call, event):
    call(event.read("event.json"))
    call(event.read("event.json", id="2"))
    call(event.read("event.json", id="3", data={"severity": "minor"}))
    call(event.read("event.json", id="4", type="kr.koren.traffic.accident.cleared"))
    report = call()
    assert report == {"accidents": 3, "by severity": {"severe": 2, "minor": 1}}
    assert call() == {"accidents": 0, "by severity": {}}
