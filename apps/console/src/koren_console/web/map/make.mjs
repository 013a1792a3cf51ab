// SPDX-License-Identifier: Apache-2.0
// Makes ../static/outline.svg and frame.json, how it was projected, from Natural Earth's borders. Only needed when the outline is to be another one:
//   npm install world-atlas@2.0.2 topojson-client@3.1.0 d3-geo@3.1.2 && node make.mjs
import { readFileSync, writeFileSync } from "node:fs";
import { geoArea, geoBounds, geoCentroid, geoMercator, geoPath } from "d3-geo";
import { feature } from "topojson-client";

const [west, south, east, north] = [125.6, 33.0, 129.75, 38.75];
const width = 400;
const world = JSON.parse(readFileSync("node_modules/world-atlas/countries-10m.json"));
const countries = feature(world, world.objects.countries).features;
const country = countries.find((one) => one.properties.name === "South Korea");
const near = country.geometry.coordinates.filter((rings) => {
  const [x, y] = geoCentroid({ type: "Polygon", coordinates: rings });
  return x > west && x < east && y > south && y < north && geoArea({ type: "Polygon", coordinates: rings }) > 2e-7;
});
const projection = geoMercator().scale(1).translate([0, 0]).rotate([-(west + east) / 2, 0]);
const scale = width / (projection([east, north])[0] - projection([west, north])[0]);
const [left, top] = projection([west, north]).map((value) => value * scale);
projection.scale(scale).translate([-left, -top]);
const height = Math.round(projection([east, south])[1]);
const path = geoPath(projection).digits(1)({ type: "MultiPolygon", coordinates: near });
const frame = { source: "Natural Earth, world-atlas 2.0.2", west, south, east, north, width, height };
writeFileSync("frame.json", JSON.stringify(frame, null, 2) + "\n");
writeFileSync(
  "../static/outline.svg",
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}"><path id="land" d="${path}"/></svg>\n`,
);
