# SPDX-License-Identifier: Apache-2.0
"""Names and places that a simulated site is made of."""

from __future__ import annotations

from typing import Final

CITIES: Final = (
    ("seoul", "서울", "Seoul", 37.5665, 126.9780),
    ("busan", "부산", "Busan", 35.1796, 129.0756),
    ("daejeon", "대전", "Daejeon", 36.3504, 127.3845),
    ("gwangju", "광주", "Gwangju", 35.1595, 126.8526),
    ("daegu", "대구", "Daegu", 35.8714, 128.6014),
    ("jeju", "제주", "Jeju", 33.4996, 126.5312),
    ("suwon", "수원", "Suwon", 37.2636, 127.0286),
    ("gangneung", "강릉", "Gangneung", 37.7519, 128.8761),
    ("jeonju", "전주", "Jeonju", 35.8242, 127.1480),
    ("ulsan", "울산", "Ulsan", 35.5384, 129.3114),
    ("incheon", "인천", "Incheon", 37.4563, 126.7052),
    ("chuncheon", "춘천", "Chuncheon", 37.8813, 127.7300),
    ("cheongju", "청주", "Cheongju", 36.6424, 127.4890),
    ("pohang", "포항", "Pohang", 36.0190, 129.3435),
    ("mokpo", "목포", "Mokpo", 34.8118, 126.3922),
    ("yeosu", "여수", "Yeosu", 34.7604, 127.6622),
    ("andong", "안동", "Andong", 36.5684, 128.7294),
    ("changwon", "창원", "Changwon", 35.2281, 128.6811),
    ("wonju", "원주", "Wonju", 37.3422, 127.9202),
    ("gunsan", "군산", "Gunsan", 35.9677, 126.7366),
)
JUNCTIONS: Final = (
    ("강남역 사거리", "Gangnam Station junction", "강남대로"),
    ("서면 교차로", "Seomyeon junction", "중앙대로"),
    ("시청 네거리", "City Hall junction", "시청로"),
    ("역 앞 사거리", "Station Square junction", "역전로"),
    ("대학로 입구", "Daehak-ro entrance", "대학로"),
    ("터미널 사거리", "Bus terminal junction", "터미널로"),
    ("한강대교 남단", "Hangang bridge, south end", "한강대로"),
    ("공단 삼거리", "Industrial park junction", "공단로"),
    ("시장 앞 교차로", "Market junction", "시장로"),
    ("나들목 진입로", "Interchange ramp", "순환로"),
)
FUNCTIONS: Final = (
    "report-incident",
    "count-vehicles",
    "flow-forecast",
    "bus-priority",
    "road-ice-watch",
    "noise-map",
    "parking-guide",
    "signal-timing",
    "wrong-way-alarm",
    "air-quality",
)
