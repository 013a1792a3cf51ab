"""The records, field by field; and against DATEX II's schema where KOREN_DATEX_SCHEMA names its folder."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import datex
import its
import pytest
from conftest import BOTH, Event, make_event
from incident import Incident

SCHEMA = os.environ.get("KOREN_DATEX_SCHEMA")
COM, SIT, LOC, XSI = (
    "{http://datex2.eu/schema/3/common}", "{http://datex2.eu/schema/3/situation}",
    "{http://datex2.eu/schema/3/locationReferencing}", "{http://www.w3.org/2001/XMLSchema-instance}",
)  # fmt: skip
BARE = {"id": "cctv-seoul-01", "latitude": -37, "longitude": 127, "name": BOTH["name"]}


def test_a_record_has_the_fields_of_its() -> None:
    assert json.loads(its.record(Incident(make_event()))) == {
        "incidentId": "seoul/cctv-seoul-01-20261124T151605Z",
        "version": 1,
        "confirmed": False,
        "type": "",
        "eventType": "교통사고",
        "eventDetailType": "추돌사고",
        "startDate": "20261125001605",
        "coordX": "127.0276",
        "coordY": "37.4979",
        "linkId": "",
        "roadName": "강남대로",
        "roadNo": "",
        "roadDrcType": "신논현역 방면",
        "lanesBlockType": "",
        "lanesBlocked": "",
        "message": "강남대로 신논현역 방면에서 추돌 사고가 발생했습니다. 자동으로 감지되었고 아직 확인되지 않았습니다.",
        "endDate": "",
    }


def test_a_camera_without_a_road_is_the_place_itself() -> None:
    told = Incident(make_event("cleared", 2, "kim", camera=BARE, what="unknown")).told()

    assert told == (
        "강남역 사거리 CCTV 화면 사고 상황이 종료되었습니다. 담당자가 확인했습니다.",
        "View of CCTV Gangnam Station Junction: accident, over. Confirmed by an operator.",
    )


def test_an_accident_of_datex_says_what_is_known() -> None:
    event = make_event()
    event["data"]["camera"]["name"] = {"ko": "<강남>\x00 & \ufffe역", "en": "A\nB"}

    root = ET.fromstring(datex.publication(Incident(event), "KOREN & co"))

    assert root.get(f"{XSI}type") == "sit:SituationPublication"
    assert root.findtext(f"{COM}publicationCreator/{COM}nationalIdentifier") == "KOREN & co"
    record = root.find(f"{SIT}situation/{SIT}situationRecord")
    assert record is not None
    assert (record.get(f"{XSI}type"), record.get("version")) == ("sit:Accident", "1")
    assert record.findtext(f"{SIT}probabilityOfOccurrence") == "probable"
    assert record.findtext(f"{SIT}severity") == "high"
    assert record.findtext(f"{SIT}collisionType") == "rearCollision"
    assert record.findtext(f"{SIT}validity/{COM}validityStatus") == "active"
    assert record.find(f".//{COM}overallEndTime") is None
    assert [value.text for value in record.iterfind(f"{SIT}source/{COM}sourceName//{COM}value")] == [
        "<강남> & 역",
        "A B",
    ]
    point = f"{SIT}locationReference/{LOC}pointByCoordinates/{LOC}pointCoordinates"
    assert (record.findtext(f"{point}/{LOC}latitude"), record.findtext(f"{point}/{LOC}longitude")) == (
        "37.4979000", "127.0276000",
    )  # fmt: skip


def test_an_accident_of_datex_is_certain_once_confirmed_and_ends_when_it_is_cleared() -> None:
    root = ET.fromstring(datex.publication(Incident(make_event("cleared", 7, "kim")), "koren"))

    record = root.find(f"{SIT}situation/{SIT}situationRecord")
    assert record is not None and record.get("version") == "7"
    assert record.findtext(f"{SIT}probabilityOfOccurrence") == "certain"
    assert record.findtext(f"{SIT}validity/{COM}validityStatus") == "definedByValidityTimeSpec"
    assert record.findtext(f".//{COM}overallEndTime") == "2026-11-24T15:48:30.000Z"


VEHICLE, PEOPLE = ("VehicleObstruction", "vehicleObstructionType"), ("GeneralObstruction", "obstructionType")
HAZARDS = [
    ("stopped-vehicle", "정지차량", "정지 차량이", VEHICLE, "other", "stationary"),
    ("person-on-road", "보행자", "차도 위 보행자가", PEOPLE, "peopleOnRoadway", "unknown"),
    ("wrong-way", "역주행", "역주행 차량이", VEHICLE, "vehicleOnWrongCarriageway", "mobile"),
]


@pytest.mark.parametrize(("about", "detail", "ko", "names", "value", "mobility"), HAZARDS)
def test_what_is_no_accident_is_an_obstruction_without_severity(
    about: str, detail: str, ko: str, names: tuple[str, str], value: str, mobility: str
) -> None:
    incident = Incident(make_event(about=about))

    fields = json.loads(its.record(incident))
    assert (fields["eventType"], fields["eventDetailType"]) == ("기타돌발", detail)
    assert fields["message"].startswith(f"강남대로 신논현역 방면에서 {ko} 감지되었습니다. 자동으로")
    root = ET.fromstring(datex.publication(incident, "koren"))
    record = root.find(f"{SIT}situation/{SIT}situationRecord")
    assert record is not None
    assert record.get(f"{XSI}type") == f"sit:{names[0]}"
    assert record.findtext(f"{SIT}{names[1]}") == value
    assert record.findtext(f"{SIT}mobilityOfObstruction/{SIT}mobilityType") == mobility
    assert root.find(f".//{SIT}severity") is None and root.find(f".//{SIT}overallSeverity") is None


@pytest.mark.skipif(not SCHEMA, reason="KOREN_DATEX_SCHEMA must name the folder with DATEXII_3_D2Payload.xsd")
@pytest.mark.parametrize(
    "event",
    [
        make_event(),
        make_event("cleared", 3, "kim"),
        make_event("updated", 2, camera=BARE),
        *(make_event(what=what) for what in ("side", "head_on", "single", "unknown")),
        *(make_event(severity=severity) for severity in ("minor", "moderate")),
        *(make_event(kind, 2, about=hazard[0]) for hazard in HAZARDS for kind in ("detected", "cleared")),
    ],
)
def test_publications_are_valid(event: Event) -> None:
    xmlschema = pytest.importorskip("xmlschema")
    schema = xmlschema.XMLSchema(str(Path(SCHEMA or "") / "DATEXII_3_D2Payload.xsd"))

    schema.validate(datex.publication(Incident(event), "koren").decode())
