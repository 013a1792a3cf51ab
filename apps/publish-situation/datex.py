"""An incident as a DATEX II version 3 SituationPublication with one record.

The order of elements is the schema's.
"""

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from incident import Incident

_SPACES = {
    "d2": "http://datex2.eu/schema/3/d2Payload",
    "com": "http://datex2.eu/schema/3/common",
    "sit": "http://datex2.eu/schema/3/situation",
    "loc": "http://datex2.eu/schema/3/locationReferencing",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
_SEVERITY = {"minor": "low", "moderate": "medium", "severe": "high"}
_RECORD = {
    "accident": "Accident",
    "stopped-vehicle": "VehicleObstruction",
    "person-on-road": "GeneralObstruction",
    "wrong-way": "VehicleObstruction",
}
# Whether it moves, and what it is. The schema has no word for a vehicle that has stopped for a reason unknown.
_OBSTRUCTION = {
    "stopped-vehicle": ("stationary", "sit:vehicleObstructionType", "other"),
    "person-on-road": ("unknown", "sit:obstructionType", "peopleOnRoadway"),
    "wrong-way": ("mobile", "sit:vehicleObstructionType", "vehicleOnWrongCarriageway"),
}
_COLLISION = {"rear_end": "rearCollision", "side": "sideCollision", "head_on": "headOnCollision"}


def publication(incident: "Incident", publisher: str) -> bytes:
    """The publication as XML; the same bytes for the same event.

    The record's version is the event's place in its incident. It is `certain` once a person has confirmed it, and
    `probable` before. The point is the camera's; the record's creation time is when the incident began, which all
    versions have in common.
    """
    # Prefixes are declared by hand: ElementTree does not see those in values of xsi:type.
    root = ET.Element("d2:payload", {f"xmlns:{prefix}": uri for prefix, uri in _SPACES.items()})
    root.attrib |= {"xsi:type": "sit:SituationPublication", "lang": "ko", "modelBaseVersion": "3"}
    _add(root, "com:publicationTime", _moment(incident.time))
    creator = _add(root, "com:publicationCreator")
    _add(creator, "com:country", "kr")
    _add(creator, "com:nationalIdentifier", publisher)
    situation = _add(root, "sit:situation")
    situation.set("id", incident.id)
    if incident.severity:
        _add(situation, "sit:overallSeverity", _SEVERITY[incident.severity])
    _add(situation, "sit:situationVersionTime", _moment(incident.time))
    _add(_add(situation, "sit:headerInformation"), "com:informationStatus", "real")
    _record(_add(situation, "sit:situationRecord"), incident)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def _record(record: ET.Element, incident: "Incident") -> None:
    record.attrib |= {
        "xsi:type": "sit:" + _RECORD[incident.about],
        "id": f"{incident.id}/{incident.about}",
        "version": str(incident.version),
    }
    _add(record, "sit:situationRecordCreationTime", _moment(incident.started_at))
    _add(record, "sit:situationRecordVersionTime", _moment(incident.time))
    _add(record, "sit:probabilityOfOccurrence", "certain" if incident.confirmed else "probable")
    if incident.severity:
        _add(record, "sit:severity", _SEVERITY[incident.severity])
    source = _add(record, "sit:source")
    _add(source, "com:sourceCountry", "kr")
    _add(source, "com:sourceIdentification", incident.camera)
    _languages(_add(source, "com:sourceName"), incident.name)
    _add(source, "com:sourceType", "videoProcessingMonitoringStation")
    validity = _add(record, "sit:validity")
    _add(validity, "com:validityStatus", "definedByValidityTimeSpec" if incident.cleared_at else "active")
    period = _add(validity, "com:validityTimeSpecification")
    _add(period, "com:overallStartTime", _moment(incident.started_at))
    if incident.cleared_at:
        _add(period, "com:overallEndTime", _moment(incident.cleared_at))
    comment = _add(record, "sit:generalPublicComment")
    _languages(_add(comment, "sit:comment"), incident.told())
    _add(comment, "sit:commentType", "description")
    location = _add(record, "sit:locationReference")
    location.set("xsi:type", "loc:PointLocation")
    _coordinates(_add(location, "loc:coordinatesForDisplay"), incident)
    described = _add(location, "loc:supplementaryPositionalDescription")
    seen = f"{incident.name[0]} CCTV 화면", f"in view of CCTV {incident.name[1]}"
    _languages(_add(described, "loc:locationDescription"), seen)
    if incident.road[0]:
        road = _add(described, "loc:roadInformation")
        if incident.direction[0]:
            _add(road, "loc:roadDestination", incident.direction[0])
        _add(road, "loc:roadName", incident.road[0])
    point = _add(location, "loc:pointByCoordinates")
    _coordinates(_add(point, "loc:pointCoordinates"), incident)
    if incident.about == "accident":
        _add(record, "sit:accidentType", "collision" if incident.what in _COLLISION else "accident")
        if incident.what in _COLLISION:
            _add(record, "sit:collisionType", _COLLISION[incident.what])
        return
    mobility, element, value = _OBSTRUCTION[incident.about]
    _add(_add(record, "sit:mobilityOfObstruction"), "sit:mobilityType", mobility)
    _add(record, element, value)


def _add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    child = ET.SubElement(parent, name)
    child.text = text
    return child


def _languages(parent: ET.Element, texts: tuple[str, str]) -> None:
    values = _add(parent, "com:values")
    for language, text in zip(("ko", "en"), texts, strict=True):
        _add(values, "com:value", text).set("lang", language)


def _coordinates(parent: ET.Element, incident: "Incident") -> None:
    _add(parent, "loc:latitude", f"{incident.latitude:.7f}")
    _add(parent, "loc:longitude", f"{incident.longitude:.7f}")


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
