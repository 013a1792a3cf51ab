"""An incident as a 돌발상황 record: the fields that the open API of Korea's ITS has for one.

Fields that the event says nothing of are empty texts, as in that API: the road's class and number, the link, and the
lanes. Its times are KST, as YYYYMMDDhhmmss.
"""

import json
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from incident import Incident

_KST = timezone(timedelta(hours=9))
_DETAIL = {
    "rear_end": "추돌사고",
    "side": "측면충돌사고",
    "head_on": "정면충돌사고",
    "single": "단독사고",
    "unknown": "사고",
    "stopped-vehicle": "정지차량",
    "person-on-road": "보행자",
    "wrong-way": "역주행",
}


def record(incident: "Incident") -> bytes:
    """The record as JSON. `incidentId`, `version` and `confirmed` are no fields of ITS: a receiver tells by them
    which record this one replaces, and whether a person has checked it."""
    fields = {
        "incidentId": incident.id,
        "version": incident.version,
        "confirmed": incident.confirmed,
        "type": "",
        "eventType": "교통사고" if incident.about == "accident" else "기타돌발",
        "eventDetailType": _DETAIL[incident.what],
        "startDate": _moment(incident.started_at),
        "coordX": str(incident.longitude),
        "coordY": str(incident.latitude),
        "linkId": "",
        "roadName": incident.road[0],
        "roadNo": "",
        "roadDrcType": incident.direction[0],
        "lanesBlockType": "",
        "lanesBlocked": "",
        "message": incident.told()[0],
        "endDate": _moment(incident.cleared_at) if incident.cleared_at else "",
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def _moment(time: datetime) -> str:
    return time.astimezone(_KST).strftime("%Y%m%d%H%M%S")
